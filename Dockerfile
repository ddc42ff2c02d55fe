# CodecFlow's services in one image. Two targets from the same code and the same locked versions:
#   docker build --target gpu -t codecflow:gpu .    PyTorch with its CUDA libraries (about 6 GB)
#   docker build --target cpu -t codecflow:cpu .    PyTorch's CPU build (about 1.4 GB): producers, followers, small models
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore UV_LINK_MODE=copy UV_NO_CACHE=1
# Containers cannot write bytecode: without it each start compiles torch and transformers again, which takes 10 s of a core.
ENV UV_COMPILE_BYTECODE=1 UV_COMPILE_BYTECODE_TIMEOUT=600
RUN --mount=type=bind,source=requirements,target=/requirements \
    python -m venv /opt/codecflow && python -m pip install --no-cache-dir --require-hashes -r /requirements/uv.txt
ENV VIRTUAL_ENV=/opt/codecflow PATH=/opt/codecflow/bin:$PATH

FROM build AS build-gpu
RUN --mount=type=bind,source=requirements,target=/requirements \
    uv pip install --require-hashes -r /requirements/run.txt
COPY . /src
RUN uv pip install --no-deps --no-build-isolation /src

# The CPU build of the same PyTorch version comes from PyTorch's own index, which uv knows; its hash is not in the lock.
FROM build AS build-cpu
# With what `codecflow model build` needs.
RUN --mount=type=bind,source=requirements,target=/requirements \
    uv pip install --torch-backend cpu $(grep -hoE '^torch(vision)?==[0-9.]+' /requirements/dev.txt | sort -u) && \
    uv pip install --no-deps --require-hashes -r /requirements/run-cpu.txt
COPY . /src
RUN uv pip install --no-deps --no-build-isolation /src

FROM python:${PYTHON}-slim AS runtime
RUN python -m compileall -q -x 'test|lib2to3' "$(python -c 'import os; print(os.path.dirname(os.__file__))')" && \
    useradd --create-home --uid 10001 codecflow && \
    mkdir /models /videos /evidence && chmod 1777 /models /evidence && chmod 755 /home/codecflow
ENV PATH=/opt/codecflow/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/models/hub
WORKDIR /home/codecflow
USER codecflow
ENTRYPOINT ["codecflow"]
CMD ["--help"]

FROM runtime AS cpu
COPY models/codecflow-tiny/trained.safetensors /usr/share/codecflow/
COPY --from=build-cpu /opt/codecflow /opt/codecflow

FROM runtime AS gpu
COPY --from=build-gpu /opt/codecflow /opt/codecflow
