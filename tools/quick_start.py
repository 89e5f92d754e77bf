"""A pytest plugin (-p) loaded before nbval: what takes two seconds to import in each process, and no test uses."""

import sys

sys.modules["rfc3987_syntax"] = None  # an optional part of jsonschema
