"""Every REST route, in one list for the app and for the document."""

from web.rest import export, multi
from web.rest import handlers as rest

ROUTES = [*rest.ROUTES, *multi.ROUTES, *export.ROUTES]
