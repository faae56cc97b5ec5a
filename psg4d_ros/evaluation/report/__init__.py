"""The report: replays as one HTML file that opens anywhere, without a network (docs/report.md)."""
