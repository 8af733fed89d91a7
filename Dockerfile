# `ila` with Ray and S3 in a container, as a user without rights:
#     docker build -t ila .                                                                                    on CPUs
#     docker build --build-arg BASE=nvidia/cuda:13.0.2-base-ubuntu24.04 --build-arg TORCH=cu130 -t ila .       on GPUs
#     docker run --rm --shm-size 4g -v "$PWD:/data" -v models:/models ila predict videos --model user/my-ila
# BASE: a Debian or Ubuntu with Python 3.11 or newer. TORCH: a build of torch that `uv pip install --torch-backend`
# knows; empty: PyPI's. EXTRAS: as of `pip install 'transformers-ila[...]'`. The volume /models keeps the Hub's weights.
# --gpus all shows the container GPUs, --user "$(id -u)" makes what it writes to /data yours.
ARG BASE=debian:trixie-slim

FROM ${BASE} AS build
ARG TORCH=cpu
ARG EXTRAS=ray,s3
ARG PREFIX=/opt/ila
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN python3 -m venv uv && uv/bin/pip install --no-cache-dir --constraint constraints.txt uv \
    && python3 -m venv --without-pip "${PREFIX}"
RUN uv/bin/uv pip install --compile-bytecode ${TORCH:+"--torch-backend=${TORCH}"} --constraint constraints.txt \
    --python "${PREFIX}/bin/python" ".[${EXTRAS}]"

FROM ${BASE}
ARG PREFIX=/opt/ila
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3 && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home --uid 10001 ila && mkdir -m 1777 /data /models
COPY --from=build ${PREFIX} ${PREFIX}
ENV PATH=${PREFIX}/bin:${PATH} HF_HOME=/models
VOLUME /models
WORKDIR /data
USER 10001
ENTRYPOINT ["ila"]
CMD ["--help"]
