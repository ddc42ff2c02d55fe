"""The documentation site: reference pages generated from the code, and the mkdocs hook that includes linked files."""
