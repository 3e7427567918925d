"""The figures of the report page, as SVG."""
