"""What the daemon says of itself: OpenAPI, AsyncAPI and their pages, made of the tables that the app serves."""
