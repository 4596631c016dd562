"""The official clients, newest and oldest, on Node and in a browser; and the server that they meet."""
