"""What lies at addresses such as `s3://bucket/labels`: any file system of fsspec."""
