"""HTML pages from jinja2 templates: one look, everything escaped."""

from typing import Any


def template(package: str, name: str) -> Any:
    """Return a template of a package; it may include `head.html` and `look.css`, which all share.

    Args:
        package: The package in whose folder the template is.
        name: The template's file.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader(
            [jinja2.PackageLoader(package, "."), jinja2.PackageLoader(__name__, ".")]
        ),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)
