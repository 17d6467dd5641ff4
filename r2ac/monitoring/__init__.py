"""What a run tells: metrics by name, log rows and where they go, the panel, the dashboard, the report."""
