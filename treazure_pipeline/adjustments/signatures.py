"""Who sent a delivery, proved by the signature over its raw body (https://www.standardwebhooks.com, as Svix signs)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

# Svix sends the headers of the standard under names of its own; its newer endpoints under those of the standard.
_PREFIXES = ("svix", "webhook")
_PARTS = ("id", "timestamp", "signature")


class UnsignedError(Exception):
    """The delivery isn't the sender's, or is not from now: missing headers, no secret fits, 5 minutes off."""


class MalformedError(Exception):
    """The signature can't be checked at all: headers or a body that no sender makes."""


class Verifier:
    """Checks deliveries against several secrets, any of which may have signed: so that they can be rotated."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._webhooks = [Webhook(secret) for secret in secrets]

    def __repr__(self) -> str:
        """Show no secret."""
        return f"{type(self).__name__}()"

    def verify(self, body: bytes, headers: Mapping[str, str]) -> str:
        """Return the delivery's id, the same each time that the sender tries again.

        Raises UnsignedError or MalformedError, whose text may be shown to whoever sent it.
        """
        prefix = next((prefix for prefix in _PREFIXES if f"{prefix}-id" in headers), _PREFIXES[0])
        signed = {f"webhook-{part}": headers.get(f"{prefix}-{part}", "") for part in _PARTS}
        reason = ""
        for webhook in self._webhooks:
            try:
                webhook.verify(body, signed, json_parse=False)
            except WebhookVerificationError as error:
                reason = str(error)
            except Exception:  # noqa: BLE001 - the library lets through whatever hostile input makes Python raise
                raise MalformedError("The signature headers or the body can't be read.") from None
            else:
                return signed["webhook-id"]
        raise UnsignedError(f"{reason}.")
