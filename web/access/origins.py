"""The sites whose pages may read what is served. They may change while the daemon runs: who answers looks here."""


class Origins:
    """`allowed` is "*" or a list of exact origins."""

    def __init__(self, allowed: list[str] | str) -> None:
        self.allowed = allowed

    def change(self, allowed: list[str] | str) -> None:
        """Others, from the next request on."""
        self.allowed = allowed
