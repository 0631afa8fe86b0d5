"""What is measured: homographies, semantic and temporal correspondence; a folder each."""
