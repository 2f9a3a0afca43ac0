"""The hub of pretrained weights: said at once where it cannot be reached, and how to go on."""

from __future__ import annotations

import socket
import threading
import urllib.parse
import urllib.request

from unet_pipeline.errors import UserError

PATIENCE_SECONDS = 4.0
"""Left alone, the downloads of an encoder were seen to retry for 24 to 104 s without a network."""


def require_hub(label: str) -> None:
    """Raise `UserError` within `PATIENCE_SECONDS` where the hub cannot be reached.

    Where its client is told to stay offline, it looks into its cache only, and need not be asked.
    label: what messages call the component that wants weights.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    address = urllib.parse.urlsplit(constants.ENDPOINT)
    proxy = urllib.request.getproxies().get(address.scheme)
    if proxy and not urllib.request.proxy_bypass(address.hostname or ""):
        address = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}")
    if not _can_connect(address):
        raise UserError(
            f"{label}: the pretrained weights of the encoder come from a hub "
            f"({constants.ENDPOINT}), which cannot be reached; {without_the_hub()}"
        )


def without_the_hub() -> str:
    """The end of a sentence about weights that did not come: what can be done instead."""
    from huggingface_hub import constants

    return (
        "leave encoder_weights out to start from fresh weights, load a file with --weights FILE, "
        f"or, if the weights are in {constants.HF_HUB_CACHE} already, set HF_HUB_OFFLINE=1"
    )


def _can_connect(address: urllib.parse.SplitResult) -> bool:
    """Whether `address` takes a connection in time."""
    reached = threading.Event()

    def connect() -> None:
        port = address.port or (80 if address.scheme == "http" else 443)
        try:
            socket.create_connection((address.hostname or "", port), PATIENCE_SECONDS).close()
        except OSError:
            return
        reached.set()

    # A thread, because the time limit of a socket does not cover the look-up of the name.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(PATIENCE_SECONDS)
    return reached.is_set()
