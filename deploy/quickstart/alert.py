"""Posts a signed alert to a gateway's webhook (Standard Webhooks), inside the site's namespace:

    alert.py --url https://127.0.0.1:8443/PATH --ca FILE --secret-file FILE < body.json

The signature is computed here from the specification, not with the gateway's code.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import hmac
import json
import secrets
import ssl
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

PATH = "/v1/alerts"


def alert_body(event_id: str) -> dict[str, Any]:
    """An actual earthquake warning in the gateway's documented JSON."""
    return {
        "version": 1,
        "id": f"{event_id}-1",
        "event": event_id,
        "serial": 1,
        "status": "actual",
        "kind": "alert",
        "title": "Nankai trough, off Cape Muroto (quickstart)",
        "magnitude": 8.0,
        "depth_km": 15,
        "latitude": 33.0,
        "longitude": 134.0,
        "max_intensity": "7",
    }


def signature(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()


def post(url: str, ca: Path, secret: str, body: bytes) -> tuple[int, str]:
    message_id, timestamp = f"msg_{secrets.token_hex(12)}", int(time.time())
    headers = {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature(secret, message_id, timestamp, body),
    }
    request = urllib.request.Request(url, data=body, headers=headers, method="POST")
    context = ssl.create_default_context(cafile=str(ca))
    try:
        with urllib.request.urlopen(request, timeout=10, context=context) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--url", required=True)
    parser.add_argument("--ca", type=Path, required=True)
    parser.add_argument("--secret-file", type=Path, required=True)
    arguments = parser.parse_args()
    secret, body = arguments.secret_file.read_text().strip(), sys.stdin.buffer.read()
    sent_s = time.monotonic()  # the same clock in every process of this machine
    status, text = post(arguments.url, arguments.ca, secret, body)
    print(json.dumps({"status": status, "answer": text[:1000], "sent_s": round(sent_s, 3)}))
    return 0 if status in (200, 202) else 1


if __name__ == "__main__":
    sys.exit(main())
