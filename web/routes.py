"""Every REST route, in one list for the app and for the document."""

from web import export, multi, rest

ROUTES = [*rest.ROUTES, *multi.ROUTES, *export.ROUTES]
