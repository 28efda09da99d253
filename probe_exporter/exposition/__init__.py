"""Write samples and families in each format that the exporter offers."""
