# Two images. `control` runs routers, the operator and the commands, and has no torch; `worker` runs workers.
#
#   docker build --target control -t sluice-control:0.1.0 .
#   docker build --target worker  -t sluice-worker:0.1.0 .
#
# Packages are installed once per target, in a stage that is thrown away: the images have no compiler, no pip cache
# and nothing to build with. TORCH_PACKAGES chooses another torch (a CUDA build); with `docker build --secret`
# or PIP_INDEX_URL a private index can be used. docs/kubernetes.md has sizes and start times.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS system
ENV PATH=/opt/sluice/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONPATH=/opt/sluice/lib \
    PYTHONSAFEPATH=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    USER=sluice

FROM system AS control-packages
ARG PIP_INDEX_URL
COPY constraints.txt pyproject.toml README.md LICENSE /source/
COPY sluice /source/sluice
RUN python -m pip install --no-cache-dir --target /opt/sluice/lib -c /source/constraints.txt '/source[operator,planner]' \
 && mv /opt/sluice/lib/bin /opt/sluice/bin \
 && ln -s lib/sluice/demo_model /opt/sluice/demo_model

FROM system AS worker-packages
ARG PIP_INDEX_URL
ARG TORCH_PACKAGES=torch
COPY constraints.txt pyproject.toml README.md LICENSE /source/
COPY sluice /source/sluice
RUN python -m pip install --no-cache-dir --target /opt/sluice/lib -c /source/constraints.txt \
    ${TORCH_PACKAGES} '/source[worker,nixl]' \
 && mv /opt/sluice/lib/bin /opt/sluice/bin \
 && ln -s lib/sluice/demo_model /opt/sluice/demo_model

FROM system AS control
COPY --from=control-packages /opt/sluice /opt/sluice
USER 10001:10001
ENTRYPOINT ["sluice"]

FROM system AS worker
COPY --from=worker-packages /opt/sluice /opt/sluice
USER 10001:10001
ENTRYPOINT ["sluice"]
