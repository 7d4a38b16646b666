"""JAX's side: tracing, and jaxprs as graphs.

The version of JAX is checked here.
"""

import jax

from j2o.frontend.versions import check_version

check_version(jax.__version_info__)
