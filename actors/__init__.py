"""Exchange feeds as supervised actors. A file here is machinery, a folder is an exchange."""
