"""What object stores do as web servers do not: S3's own requests, and the hashes that stores state of their files."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from typing import Any

import requests
from requests.structures import CaseInsensitiveDict

DIGITS = {"sha256": 64, "md5": 32}
"""of a whole hash, hexadecimal"""
STATED = (
    ("X-Linked-Etag", "sha256", '"?([0-9a-f]{64})"?'),
    ("x-goog-hash", "md5", ".*md5=([A-Za-z0-9+/]{22}==).*"),
    ("Repr-Digest", "sha256", ".*sha-256=:([A-Za-z0-9+/]{43}=):.*"),
    ("Repr-Digest", "md5", ".*md5=:([A-Za-z0-9+/]{22}==):.*"),
)
"""header that states the hash of a whole file, kind of hash, form"""
CREDENTIALS = (
    "boto3 reads credentials from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from the profile AWS_PROFILE in "
    "~/.aws, or from the role of the machine"
)


def stated(answer: requests.Response) -> dict[str, str]:
    """Reads the hashes of a whole file, hexadecimal, that its server states: sha256, md5.

    Hugging Face states them in the redirect to where the bytes are, for a file in LFS; for others the same header holds
    a git hash, of 40 digits, which is left aside. Google Cloud Storage states an MD5, of the packed bytes where it
    unpacks a file on the way. `Repr-Digest` (RFC 9530) is of the answer that carries it, so not of a redirect's file.
    """
    found = {}
    for step in (*answer.history, answer):
        left_aside = {"Repr-Digest"} if step is not answer else set()
        if step.headers.get("x-goog-stored-content-encoding", "identity") != "identity":
            left_aside.add("x-goog-hash")
        for header, kind, form in STATED:
            match = re.fullmatch(form, step.headers.get(header, ""))
            if match and header not in left_aside:
                digits = match[1]
                found[kind] = digits if len(digits) == DIGITS[kind] else base64.b64decode(digits).hex()
    return found


class StoreError(requests.RequestException):
    """What boto3 refuses to ask. Its text holds no secret, so messages may repeat it."""


class UnreachableError(StoreError, requests.ConnectionError):
    """No answer from the store."""


def get(url: str, *, headers: Mapping[str, str], timeout: tuple[float, float]) -> requests.Response:
    """Asks for an object through boto3; returns what `requests.get(..., stream=True)` returns of a file.

    Endpoint, region and credentials are those that boto3 finds in the environment (`AWS_ENDPOINT_URL`,
    `AWS_DEFAULT_REGION`...), in `~/.aws` or by the role of the machine. Where it finds no credentials, the request is
    not signed, as public buckets allow. A refusal of the store is an answer with its status and a readable reason.

    What the store states of the whole object stands in `Repr-Digest` (RFC 9530), see `_digest`.

    Args:
        url: s3://bucket/key; the key as it is, not percent-encoded.
        headers: `Range` is sent, and `If-Range` with it, as `If-Match`: S3 documents no `If-Range`. Another version of
            the object is then answered with 412.
        timeout: seconds to connect, and between two pieces.

    Raises:
        UnreachableError: no answer, which another attempt may mend.
        StoreError: the address, or the configuration that boto3 reads, cannot be used.
    """
    from botocore import exceptions  # here: whoever downloads from elsewhere does not wait for it

    bucket, _, key = url.partition("://")[2].partition("/")
    if not (bucket and key):
        raise StoreError("an object's address is s3://bucket/key")
    wanted = {"Bucket": bucket, "Key": key, "ChecksumMode": "ENABLED"}
    if "Range" in headers:
        wanted |= {"Range": headers["Range"], "IfMatch": headers["If-Range"]}
    endpoint, access = "its endpoint", "asked by boto3"
    try:
        client, access = _client(timeout)
        endpoint = client.meta.endpoint_url
        return _answer(client.get_object(**wanted))
    except exceptions.ClientError as error:
        return _refusal(error.response, f"{bucket} at {endpoint}", key, access)
    except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
        said = f"{type(error).__name__} with the endpoint {endpoint} (AWS_ENDPOINT_URL sets another)"
        raise UnreachableError(said) from error
    except (exceptions.BotoCoreError, ValueError) as error:  # ValueError: an endpoint that is no address
        raise StoreError(f"boto3 says: {error}") from error


def _client(timeout: tuple[float, float]) -> tuple[Any, str]:
    """Makes boto3's client for one request and says with what access it asks."""
    import boto3
    from botocore import UNSIGNED, config

    session = boto3.session.Session()
    found = session.get_credentials()
    settings: dict[str, Any] = {} if found else {"signature_version": UNSIGNED}
    # One attempt: the caller tries again, and tells so.
    settings |= {"connect_timeout": timeout[0], "read_timeout": timeout[1], "retries": {"total_max_attempts": 1}}
    access = f"asked with the credentials of {found.method}" if found else "asked without credentials, none were found"
    return session.client("s3", config=config.Config(**settings)), access


def _answer(said: Mapping[str, Any]) -> requests.Response:
    status, headers = said["ResponseMetadata"]["HTTPStatusCode"], dict(said["ResponseMetadata"]["HTTPHeaders"])
    # How the object was sent to the store, not how it lies there; NooBaa and Versity's gateway keep it.
    headers["content-encoding"] = headers.get("content-encoding", "").replace("aws-chunked", "").strip(", ")
    if status == 200 and (digest := _digest(said)):
        headers["Repr-Digest"] = digest
    # In a `with`, boto3's body is urllib3's response: it gives bytes as they come, and does not check what came only
    # in part. It is left by closing that response, as requests does with its own.
    return _response(status, "", headers, said["Body"].__enter__())


def _digest(said: Mapping[str, Any]) -> str:
    """Words what the store states of a whole object as a `Repr-Digest`; empty where it states nothing of it.

    That is its SHA-256 where one was kept at the upload, but not that of an upload in parts, which hashes hashes.
    Else it is the ETag, if that is an MD5: of an upload in one part, and not encrypted with a key of KMS or of the
    customer's (Amazon S3 API Reference, `Object`). A composed ETag or one of another form states nothing.
    """
    if (checksum := said.get("ChecksumSHA256", "")) and "-" not in checksum:
        return f"sha-256=:{checksum}:"
    plain = said.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in said
    tag = said.get("ETag", "").strip('"')
    if plain and re.fullmatch("[0-9a-f]{32}", tag):
        return f"md5=:{base64.b64encode(bytes.fromhex(tag)).decode()}:"
    return ""


def _refusal(said: Mapping[str, Any], bucket: str, key: str, access: str) -> requests.Response:
    """Words what a store says instead of an object.

    Amazon also denies access to an object that is not there, to whoever may not list the bucket.
    """
    code, status = said["Error"]["Code"], said["ResponseMetadata"]["HTTPStatusCode"]
    headers = dict(said["ResponseMetadata"]["HTTPHeaders"])
    if status == 416 and "ActualObjectSize" in said["Error"]:
        headers["content-range"] = f"bytes */{said['Error']['ActualObjectSize']}"
    words = {"NoSuchBucket": f"there is no bucket {bucket}", "NoSuchKey": f"no object {key!r} in the bucket {bucket}"}
    if status in (401, 403) or "Token" in code:  # 400: a token that is invalid or has expired
        words[code] = f"no access to {key!r} in the bucket {bucket}, or it is not there; {access}; {CREDENTIALS}"
    return _response(status, f"{code}: {words[code]}" if code in words else code, headers, io.BytesIO())


def _response(status: int, reason: str, headers: Mapping[str, str], raw: Any) -> requests.Response:
    response = requests.Response()
    response.status_code, response.reason, response.raw = status, reason, raw
    response.headers = CaseInsensitiveDict(headers)
    return response
