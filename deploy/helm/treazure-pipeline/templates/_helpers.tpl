{{- define "treazure.name" -}}
{{ printf "%s-%s" .root.Release.Name .role | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "treazure.selector" -}}
app.kubernetes.io/name: treazure-pipeline
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "treazure.labels" -}}
{{ include "treazure.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "treazure.image" -}}
{{- $image := .root.Values.image -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* What every pod of ours says of itself, but for its container's command, probes and resources. */}}
{{- define "treazure.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile:
    type: RuntimeDefault
volumes:
  - name: home
    emptyDir: {}
  - name: tmp
    emptyDir: {}
  - name: secrets
    secret:
      secretName: {{ .root.Values.secrets.name }}
      defaultMode: 0440
      items:
        {{- range $name, $key := index .root.Values.secrets.keys .role }}
        - key: {{ $key | quote }}
          path: {{ $name }}
        {{- end }}
  {{- if .root.Values.programmes }}
  - name: programmes
    configMap:
      name: {{ include "treazure.name" (dict "root" .root "role" "programmes") }}
  {{- end }}
{{- end }}

{{- define "treazure.container" -}}
name: {{ .role }}
image: {{ include "treazure.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
env:
  {{- range $name, $key := index .root.Values.secrets.keys .role }}
  - name: {{ $name }}_FILE
    value: /run/secrets/treazure/{{ $name }}
  {{- end }}
  {{- range $name, $value := .root.Values.settings }}
  - name: {{ $name }}
    value: {{ $value | quote }}
  {{- end }}
  - name: OTEL_SERVICE_NAME
    value: treazure-pipeline-{{ .role }}
  {{- if .root.Values.programmes }}
  - name: TREAZURE_PIPELINE_PROGRAMMES
    value: /etc/treazure/programmes.yaml
  {{- end }}
volumeMounts:
  - name: home
    mountPath: /var/lib/treazure
  - name: tmp
    mountPath: /tmp
  - name: secrets
    mountPath: /run/secrets/treazure
    readOnly: true
  {{- if .root.Values.programmes }}
  - name: programmes
    mountPath: /etc/treazure
    readOnly: true
  {{- end }}
resources:
  {{- toYaml (index .root.Values .role).resources | nindent 2 }}
{{- end }}
