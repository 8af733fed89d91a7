"""URLs: what lies behind one to a file, within limits on bytes, time and addresses; and how one is shown.

A server may redirect, to another server or into the network of this machine, and a name may stand for another address
at any time: where private addresses are not allowed, each is checked just before the connection that goes to it.
"""

import base64
import hashlib
import http.client
import ipaddress
import re
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any


DOWNLOAD_PIECE = 2**18  # bytes
NOT_PUBLIC = tuple(  # beside what `is_global` knows, which differs with the version of Python
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16",  # the host of a virtual machine of Azure
        "192.0.0.0/24",  # protocol assignments; 192.0.0.192 is the host of Oracle's virtual machines
        "192.88.99.0/24",  # relays of 6to4
        "64:ff9b:1::/48",  # NAT64 of a network of one's own
        "3fff::/20",  # documentation
    )
)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
HIDDEN = "***"
# `Path` makes one slash of two; somebody may forget both, or the scheme
SCHEME = (
    r"(?:[A-Za-z][A-Za-z0-9+.-]{1,30}:/+"  # bounded: else a long word takes quadratic time
    r"|(?:https?|ftps?|rtsp|s3|gs):(?=[^\s/]+[@.])|(?<![\w./:*-])//(?=[^\s/]+@))"
)
QUERY = re.compile(r"\?|;(?=[^/?;=]+=)")  # also parameters of the path, such as `;jsessionid=`
URL = re.compile(rf"{SCHEME}[^\s'\"<>`]+")
OPENING = re.compile(rf"\s*{SCHEME}")
PASSWORD = re.compile(r"[^\[\]]*:(?!\d*$)[^\[\]]*")  # where a port would stand: it has a / ? or # in it
HIDDEN_QUERY = re.compile(rf"{re.escape(HIDDEN)}[0-9a-f]{{8}}")
STORES = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "hf")  # whose keys are elsewhere, and `#` is a letter
CONTAINER = re.compile(r"(?i)\s*(?:abfss?|wasbs?)://[^\s/:@]+@")  # of Azure: a place in the account, not its user
_NAMED = (  # what holds a secret of S3, Google Cloud Storage, Azure or the Hub
    r"X-(?:Amz|Goog)-(?:Signature|Credential|Security-Token)|AWSAccessKeyId|GoogleAccessId|Signature|Credential"
    r"|AccountKey|SharedAccess(?:Key|Signature)|(?:aws_)?(?:secret_access_key|session_token|access_key_id)"
    r"|(?:account|access|api)_key|(?:sas|access|refresh|id|security)_token|client_secret|connection_string"
)
_SCHEMES = r"Basic|Bearer|AWS4?(?:-[A-Z0-9-]+)?|GOOG[A-Z0-9-]*|SharedKey(?:Lite)?"  # of the header `Authorization`
SUSPECT = re.compile(r"[='\"]|Bearer|Authorization|hf_|A[KS]IA|ya29|eyJ|-----BEGIN", re.IGNORECASE)  # seen quickly
SECRETS = tuple(  # where a client's error or options repeat one: what stays, what is hidden
    re.compile(pattern, re.IGNORECASE)
    for pattern in (
        rf"((?:Authorization['\"]?\s*[:=]\s*b?['\"]?(?:{_SCHEMES})|\bBearer)\s+)([^'\"\s][^'\"\n]*)",
        rf"((?<![\w-])(?:{_NAMED})=|[?&](?:sig|token|secret|password|key)=)([^\s&;,'\"<>]+)",
        rf"((['\"])(?:{_NAMED}|secret|token|password|passwd)\2\s*:\s*b?)('[^']+'|\"[^\"]+\")",
        rf"((?<![\w-])(?:{_NAMED}|secret|token|password|passwd)=b?)('[^']+'|\"[^\"]+\")",
        r"((?<=['\"]))([^\s'\"/:@]{2,}:(?!//)[^\s'\"@]+)(?=@[^\s'\"]+['\"])",  # user and password without a scheme
        r"()(-----BEGIN [A-Z ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z ]*PRIVATE KEY-----|\Z))",
    )
)
TOKEN = re.compile(  # known by its form
    r"\b(?:hf_[A-Za-z0-9]{20,}|A[KS]IA[A-Z0-9]{16}|ya29\.[\w.-]+|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)", re.IGNORECASE
)


# -- how a URL is shown ----------------------------------------------------------------------------------------------


def redact(text: str) -> str:
    """Hide what may be secret in a text: user, password, query and fragment of a URL; keys, tokens and signatures.

    `https://me:secret@host/clip.mp4?token=abc#t` becomes `https://***@host/clip.mp4?***` and eight digits, a hash of
    the query: URLs that differ in it alone can still be told apart. Addresses of a store have no fragment: the `#` of
    `s3://bucket/clip #2.mp4` stays. A text that begins as a URL is one as a whole, with its blanks and quotes. Beside
    URLs, what stores' clients may repeat in an error is hidden by its name or its form (`SECRETS`): parameters of a
    signature, the header `Authorization`, options such as `secret='...'`. What was
    redacted before stays as it is.
    """
    if OPENING.match(text):
        return _redacted(text)
    text = URL.sub(lambda found: _redacted(found[0]), text)
    if SUSPECT.search(text):
        for pattern in SECRETS:
            text = pattern.sub(_without_secret, text)
        text = TOKEN.sub(lambda found: _digest(found[0]), text)  # names of files may look like tokens, and stay apart
    return text


def _without_secret(found: re.Match[str]) -> str:
    kept, secret = found[1], found[found.re.groups]
    if kept.endswith("=") and secret[:1] not in "'\"":  # of a name: two that differ in it alone stay two
        return kept + _digest(secret)
    return f"{kept}{secret[0]}{HIDDEN}{secret[-1]}" if secret[:1] in "'\"" else kept + HIDDEN


def _digest(query: str) -> str:
    """Return what stands for a query: three stars and eight digits of its hash."""
    if HIDDEN_QUERY.fullmatch(query):
        return query
    return HIDDEN + hashlib.sha256(query.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _redacted(url: str) -> str:
    scheme = re.match(OPENING, url)[0]  # type: ignore[index]
    rest = url[len(scheme) :]
    authority = re.split(r"[/?#\\]", rest, maxsplit=1)[0]
    kind = scheme.strip().partition(":")[0].lower()
    has_password = PASSWORD.fullmatch(authority) or (kind in STORES and ":" in authority)  # where no port stands
    if "@" in rest and "@" not in authority and has_password:
        authority = rest[: rest.rindex("@") + 1]
    user, at, host = authority.rpartition("@")
    rest = _without_fragment(kind, host + rest[len(authority) :])
    found = QUERY.search(rest)
    start, end = found.span() if found else (len(rest), len(rest))
    shown, mark, query = rest[:start], rest[start:end], rest[end:]
    query = _digest(query) if query else query
    shown_user = user if CONTAINER.match(url) else HIDDEN if user or at else ""
    nested = redact(shown) if OPENING.search(shown) else shown  # such as zip://a.mp4::https://me:secret@host/a.zip
    return f"{scheme}{shown_user}{at}{nested}{mark}{query}"


def _without_fragment(kind: str, rest: str) -> str:
    """Hide the fragment of a URL. Only those of http(s) have one: elsewhere two that differ in it are two places."""
    before, mark, fragment = rest.partition("#")
    if kind in STORES:
        return rest
    return before if kind in ("", "http", "https") or not fragment else before + mark + _digest(fragment)


# -- what lies behind it ---------------------------------------------------------------------------------------------


def is_url(source: Any) -> bool:
    """Return whether a source is an http(s) URL."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def download(url: str, copy: Any) -> None:
    """Download the content behind an http(s) URL into the copy's file.

    A user and password in the URL are sent as basic authentication, to that server only.

    Args:
        copy: a `VideoFile`, whose limits hold.

    Raises:
        VideoDecodingError: a limit is met.
        OSError, HTTPException, ValueError: what lies there cannot be had; the message may repeat parts of the URL.
    """
    with open_url(url, copy) as response:
        length = response.headers.get("Content-Length", "")
        announced = int(length) if length.isascii() and length.isdigit() else 0
        copy.check_bytes(announced)
        received = copy_bytes(response.read1, copy)
        if received < announced:
            raise OSError(f"the download ended after {received} of {announced} bytes")


def open_url(url: str, copy: Any) -> Any:
    """Return the server's response to a request for a URL; arguments and errors are those of `download`."""
    return _opener(copy).open(_request(url), timeout=copy.limits.timeout)


def copy_bytes(read: Callable[[int], bytes], copy: Any) -> int:
    """Write all that `read` returns into the copy's file, within its limits; return the number of bytes."""
    received = 0
    while piece := read(DOWNLOAD_PIECE):
        received += len(piece)
        copy.check_bytes(received)
        copy.check_time()
        copy.file.write(piece)
    return received


# -- requests --------------------------------------------------------------------------------------------------------


def _request(url: str) -> urllib.request.Request:
    """Make the request for a URL, whose host's letters are encoded by IDNA and all others by percent signs."""
    parts = urllib.parse.urlsplit(url)
    rest = [urllib.parse.quote(part, safe="%/:=&?~+!$,;'@()*[]") for part in (parts.path, parts.query)]
    user, at, host = parts.netloc.rpartition("@")
    _ = parts.port  # a ValueError unless it is a number
    encoded = urllib.parse.urlunsplit((parts.scheme, host.encode("idna").decode(), *rest, ""))
    request = urllib.request.Request(encoded, headers={"User-Agent": "transformers-ila"})
    if at:
        token = base64.b64encode(urllib.parse.unquote_to_bytes(user)).decode()
        request.add_unredirected_header("Authorization", f"Basic {token}")
    return request


def _opener(copy: Any) -> urllib.request.OpenerDirector:
    """Make what opens URLs: with handlers for http and https alone, so that a redirection to anything else fails."""
    library = urllib.request
    handlers: list[urllib.request.BaseHandler] = [_PublicHandler()]
    if copy.limits.allow_private_addresses:
        handlers = [library.ProxyHandler(), library.HTTPHandler(), library.HTTPSHandler()]
    handlers += [library.UnknownHandler(), library.HTTPDefaultErrorHandler(), library.HTTPErrorProcessor()]
    handlers.append(_Redirections())
    opener = library.OpenerDirector()
    for handler in handlers:
        opener.add_handler(handler)
    return opener


class _Redirections(urllib.request.HTTPRedirectHandler):
    """Follow redirections, and keep user and password for the server that they were given for."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        request = _request(newurl)
        known = req.unredirected_hdrs.get("Authorization")
        if known and (request.type, request.host) == (req.type, req.host) and "@" not in newurl:
            request.add_unredirected_header("Authorization", known)
        return request


# -- public addresses ------------------------------------------------------------------------------------------------


class _PublicConnection(http.client.HTTPConnection):
    """Connect to the addresses that were checked: a name that is resolved again may lead elsewhere."""

    def connect(self) -> None:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        addresses = [str(place[0]) for *_, place in found]
        if not all(map(is_public, addresses)):
            raise OSError(f"{self.host!r} has an address that is not public (allow_private_addresses=False)")
        for number, address in enumerate(addresses, 1):
            try:
                self.sock = socket.create_connection((address, self.port), self.timeout)
                return
            except OSError:
                if number == len(addresses):
                    raise


class _PublicTlsConnection(_PublicConnection):
    """Connect as `_PublicConnection` does, encrypted and to a server whose certificate is right."""

    default_port = http.client.HTTPS_PORT

    def connect(self) -> None:
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)


class _PublicHandler(urllib.request.AbstractHTTPHandler):
    """Open http and https at public addresses only."""

    http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_PublicConnection, req)

    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_PublicTlsConnection, req)


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the public internet, and so does an IPv4 address inside it."""
    found = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        inside = found.ipv4_mapped or found.sixtofour
        if found in NAT64:
            inside = ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
        if inside is not None:
            return is_public(str(inside))
        if found.is_site_local:
            return False
    special = any(found in network for network in NOT_PUBLIC)
    return found.is_global and not (found.is_multicast or found.is_reserved or special)
