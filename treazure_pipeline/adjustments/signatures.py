"""Proves who sent a delivery, by the signature over its raw body (https://www.standardwebhooks.com, as used by Svix)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

# Svix uses its own names for the standard's headers; its newer endpoints use the standard's names.
_PREFIXES = ("svix", "webhook")
_PARTS = ("id", "timestamp", "signature")


class UnsignedError(Exception):
    """Headers are missing, no secret fits the signature, or its time is more than 5 minutes off."""


class MalformedError(Exception):
    """The signature can't be checked, because no real sender makes such headers or such a body."""


class Verifier:
    """Checks deliveries against several secrets, so that they can be rotated."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._webhooks = [Webhook(secret) for secret in secrets]

    def __repr__(self) -> str:
        """Show no secret."""
        return f"{type(self).__name__}()"

    def verify(self, body: bytes, headers: Mapping[str, str]) -> str:
        """Return the delivery's id, which stays the same when the sender tries again.

        Raises UnsignedError or MalformedError; their text may be shown to the sender.
        """
        prefix = next((prefix for prefix in _PREFIXES if f"{prefix}-id" in headers), _PREFIXES[0])
        signed = {f"webhook-{part}": headers.get(f"{prefix}-{part}", "") for part in _PARTS}
        reason = ""
        for webhook in self._webhooks:
            try:
                webhook.verify(body, signed, json_parse=False)
            except WebhookVerificationError as error:
                reason = str(error)
            except Exception:  # noqa: BLE001 - the library passes on any error that hostile input causes
                raise MalformedError("The signature headers or the body can't be read.") from None
            else:
                return signed["webhook-id"]
        raise UnsignedError(f"{reason}.")
