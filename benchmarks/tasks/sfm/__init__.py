"""Structure from motion against surveyed poses."""
