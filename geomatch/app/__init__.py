"""A page in the browser that matches and reconstructs: what it does (`work`), and what is where (`page`)."""
