"""What a process that reaches S3 imports and reads, done by importing this: a nursery's children have it then."""

from __future__ import annotations

import botocore.session
import s3fs  # noqa: F401
from object_stores import read_models_once

read_models_once()
botocore.session.get_session().create_client("s3", region_name="us-east-1", endpoint_url="http://127.0.0.1:1").close()
