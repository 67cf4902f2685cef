"""One module a group of rows, each with ``run(bench) -> list[Result]``."""
