"""HTML pages of the web server: templates, static files, and the code that renders them."""
