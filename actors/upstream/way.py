"""The way from this machine to an exchange: straight or through a proxy, from which address, and who is believed.

Nothing of it is read from the environment: a silent detour is worse than none.
"""

import ssl
from os import strerror
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import trio
from python_socks import ProxyConnectionError, ProxyError, ProxyTimeoutError, ProxyType
from python_socks.async_.trio.v2 import Proxy

from actors.errors import UpstreamError

USER_AGENT = "marketd"  # firewalls before exchanges turn away who says none
PROXY_WITHIN = 8.0  # seconds for all that a proxy does until the exchange is reached; within those of a dial
TYPES = {"http": ProxyType.HTTP, "https": ProxyType.HTTP, "socks5": ProxyType.SOCKS5, "socks5h": ProxyType.SOCKS5}


def in_words(error: BaseException) -> str:
    """Why there is no connection. Trio's text names the address alone; the system's reasons are in a group below it."""
    text = str(error)
    below: BaseException | None = error
    while below is not None and not (isinstance(below, BaseExceptionGroup) and below.message == text):
        below = below.__cause__ or below.__context__
    if below is None:
        return text
    reasons = (strerror(number) if (number := getattr(one, "errno", 0)) else str(one) for one in below.exceptions)
    return f"{text}: {', '.join(dict.fromkeys(reasons))}"


class NoWay(UpstreamError):
    """The proxy on the way failed: to ask again at once would be in vain."""


class Way(NamedTuple):
    """`proxy`: the URL of an http, https, socks5 or socks5h proxy. `ca_file`: certificates to believe beside others."""

    proxy: str | None = None
    source_address: str | None = None
    ca_file: str | None = None

    def trust(self, tls: ssl.SSLContext | None) -> None:
        """Have a context believe what this way wants to be believed. Raises NoWay."""
        if tls is not None and self.ca_file:
            try:
                tls.load_verify_locations(self.ca_file)
            except OSError as error:  # ssl's own are such; it could be read when the program began
                raise NoWay(f"the certificates of {self.ca_file} cannot be used: {error.strerror or error}") from None

    @property
    def masked_proxy(self) -> str:
        """As it may be said: without a name and a password."""
        parts = urlsplit(self.proxy or "")
        return f"{parts.scheme}://{'***@' if '@' in parts.netloc else ''}{parts.netloc.rpartition('@')[2]}"

    async def open_tcp(self, host: str, port: int) -> trio.abc.Stream:
        """A stream to a host. Raises NoWay where a proxy is the reason that there is none, else OSError."""
        source = self.source_address or None
        if not self.proxy:
            return await trio.open_tcp_stream(host, port, local_address=source)
        try:
            stream = await self._proxy().connect(host, port, timeout=PROXY_WITHIN, local_addr=source)
        except ProxyTimeoutError:
            why = f"did not answer within {PROXY_WITHIN:g} s"
        except ProxyConnectionError as error:
            why = f"cannot be reached: {in_words(error.__cause__ or error)}"
        except ProxyError as error:
            is_http = self.proxy.startswith("http")
            why = f"refused: {error.error_code if is_http and error.error_code else error}"
        except (OSError, trio.BrokenResourceError) as error:  # TLS to an https proxy, a name that socks5 looks up here
            cause = error.__cause__ or error
            why = f"failed: {type(cause).__name__}: {cause}"
        else:
            return stream.trio_stream
        raise NoWay(f"proxy {self.masked_proxy} {why}")

    def _proxy(self) -> Proxy:
        parts = urlsplit(self.proxy or "")
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.trust(tls)
        return Proxy(
            TYPES[parts.scheme],
            parts.hostname or "",
            parts.port or 0,
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            rdns=parts.scheme != "socks5",  # who looks up the exchange's name
            proxy_ssl=tls,
        )


DIRECT = Way()
