"""The files that a configuration names: keys and certificates. What is wrong with one is an error of the configuration,
told in the same line whether the daemon starts, is only asked (`marketd check`), or takes over a new configuration.
"""

from pathlib import Path

from daemon.kinds import ConfigError
from daemon.settings import Auth, Config, Server
from web.access.keys import Key, KeysError, read_keys
from web.server.tls import Certificates


def keys_of(settings: Auth) -> dict[str, Key]:
    """None where there is no file. Raises ConfigError."""
    try:
        return read_keys(Path(settings.keys_file))
    except KeysError as error:
        raise ConfigError("auth.keys_file", str(error)) from None


def certificates_of(server: Server) -> Certificates | None:
    """None where there is no TLS. Raises ConfigError."""
    if server.certfile is None:
        return None
    try:
        return Certificates(server.certfile, server.keyfile)
    except OSError as error:
        raise _unusable(error) from None


def change_certificates(certificates: Certificates, server: Server) -> None:
    """The same pair anew, or another one. Raises ConfigError, and the old one is still used."""
    assert server.certfile is not None
    try:
        certificates.change(server.certfile, server.keyfile)
    except OSError as error:
        raise _unusable(error) from None


def check(config: Config) -> None:
    """Whether all of them can be used. Raises ConfigError."""
    keys_of(config.auth)
    certificates_of(config.server)


def _unusable(error: OSError) -> ConfigError:
    return ConfigError("server.certfile", f"cannot be used with server.keyfile: {error}")
