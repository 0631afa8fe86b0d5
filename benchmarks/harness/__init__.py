"""What all evaluations on data sets share: runs that go on where they were stopped, records, reports."""
