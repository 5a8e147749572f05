# One image per target:
#
#   cpu        ONNX Runtime on the CPU; the default
#   openvino   OpenVINO on the CPU: faster for large networks in int8
#   gpu        ONNX Runtime on CUDA, and TensorRT
#   gpu-slim   CUDA engines of this project, and ONNX Runtime on the CPU
#   engines    builds CUDA engines, without a GPU
#   ray        ONNX Runtime on the CPU, and Ray: nodes of a cluster for deploy/ray
#   export     training and export, with torch
#
# constraints.txt locks the Python packages. Not locked: the base image, whose tag moves with security fixes (set PYTHON
# to a digest to pin it), and TensorRT, whose package is a script that fetches the libraries from its vendor.

ARG PYTHON=python:3.11-slim

FROM ${PYTHON} AS build
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_CONSTRAINT=/build/constraints.txt \
    PIP_BUILD_CONSTRAINT=/build/constraints.txt \
    PIP_PYTHON=/opt/resnet-serve
WORKDIR /build
RUN python -m venv --without-pip /opt/resnet-serve
COPY pyproject.toml constraints.txt deploy/install.py ./

# The project alone, in the same place: over the libraries, a release is a layer of a few megabytes. pip builds it in an
# environment of its own, with the compiler of the gRPC protocol.
FROM build AS project
COPY . .
RUN pip install --no-deps .

FROM build AS build-cpu
RUN python install.py cpu grpc tracing

FROM build AS build-openvino
RUN python install.py openvino grpc tracing

FROM build AS build-gpu
RUN python install.py gpu grpc tracing
# Without TensorRT (--build-arg TENSORRT=) the image is half as large, and ONNX Runtime computes.
ARG TENSORRT=tensorrt
RUN test -z "$TENSORRT" || pip install "$TENSORRT"

FROM build AS build-gpu-slim
RUN python install.py gpu-slim grpc tracing

FROM build AS build-engines
RUN python install.py kernels

FROM build AS build-ray
RUN python install.py cpu tracing ray

FROM build AS build-export
RUN python install.py cpu train

FROM ${PYTHON} AS runtime
RUN useradd --system --uid 10001 --user-group --no-create-home --home-dir /tmp --shell /usr/sbin/nologin resnet \
 && install --directory --owner resnet --group resnet /cache
# PYTHONSAFEPATH: a folder `models` in the working directory, such as a volume /models, does not hide the package.
ENV PATH=/opt/resnet-serve/bin:$PATH \
    HOME=/tmp \
    PYTHONSAFEPATH=1
# A volume mounted here starts with the shipped model and is owned by the user of the container; so is /cache.
COPY --chown=10001:10001 models/pretrained/repository /repository
USER 10001:10001

FROM runtime AS service
ENV RESNET_SERVE_HOST=0.0.0.0 \
    RESNET_SERVE_PORT=8000 \
    RESNET_SERVE_REPOSITORY=/repository \
    RESNET_SERVE_CACHE=/cache
# 8001 is for gRPC, which is off unless the service is given this port, as by docker-compose.yml.
EXPOSE 8000 8001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 CMD ["python", "-m", "service.cli.healthcheck"]
ENTRYPOINT ["resnet-serve"]

FROM service AS openvino
COPY --from=build-openvino /opt/resnet-serve /opt/resnet-serve
COPY --from=project /opt/resnet-serve /opt/resnet-serve
ENV RESNET_SERVE_EXECUTOR=openvino

# Without TensorRT, an engine or a GPU, ONNX Runtime computes, and the log states the reason.
FROM service AS gpu
COPY --from=build-gpu /opt/resnet-serve /opt/resnet-serve
COPY --from=project /opt/resnet-serve /opt/resnet-serve
ENV RESNET_SERVE_EXECUTOR=tensorrt

# Without an engine or a GPU, ONNX Runtime computes on the CPU, and the log states the reason.
FROM service AS gpu-slim
COPY --from=build-gpu-slim /opt/resnet-serve /opt/resnet-serve
COPY --from=project /opt/resnet-serve /opt/resnet-serve
ENV RESNET_SERVE_EXECUTOR=cuda

FROM runtime AS engines
COPY --from=build-engines /opt/resnet-serve /opt/resnet-serve
COPY --from=project /opt/resnet-serve /opt/resnet-serve
ENV RESNET_SERVE_CACHE=/cache
ENTRYPOINT ["resnet-export", "engines"]

# KubeRay gives the command, so huge pages are set here (docs/decisions/huge-pages.md). HOME and Ray's own files are below /tmp.
FROM runtime AS ray
COPY --from=build-ray /opt/resnet-serve /opt/resnet-serve
COPY --from=project /opt/resnet-serve /opt/resnet-serve
ENV RESNET_SERVE_REPOSITORY=/repository \
    RESNET_SERVE_CACHE=/cache \
    RAY_USAGE_STATS_ENABLED=0 \
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1
EXPOSE 8000
ENTRYPOINT []
CMD ["bash"]

FROM runtime AS export
COPY --from=build-export /opt/resnet-serve /opt/resnet-serve
COPY --from=project /opt/resnet-serve /opt/resnet-serve
ENTRYPOINT ["resnet-export"]

# The last stage is what `docker build .` makes.
FROM service AS cpu
COPY --from=build-cpu /opt/resnet-serve /opt/resnet-serve
COPY --from=project /opt/resnet-serve /opt/resnet-serve
