"""A page in the browser that matches and reconstructs: what it does (`work`), how it looks, its server."""
