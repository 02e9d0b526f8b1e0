# The environment of `make setup` on every node of a GPU cluster: docker build -t mri-fm . (DALI=cu12 for older drivers).
# CUDA's libraries come with the wheels; the host needs a driver and the NVIDIA container toolkit.
FROM python:3.11.14-bookworm

SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# Debian's mirrors keep one version of a package: pinning it here would break the build with the next one.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends openssh-client pdsh \
    && rm -rf /var/lib/apt/lists/*

ARG DALI=cu13
ARG USER_ID=1000

RUN useradd --uid "${USER_ID}" --create-home trainer \
    && mkdir /mri-fm \
    && chown trainer /mri-fm

# By number, so that Kubernetes can tell that it is not root.
USER ${USER_ID}
WORKDIR /mri-fm

COPY --chown=trainer . .

ENV PIP_NO_CACHE_DIR=1
RUN make setup DALI="${DALI}"

ENV PATH="/mri-fm/.venv/bin:${PATH}"
CMD ["python", "-m", "launch.doctor"]
