"""Points and masks followed through videos."""
