# dinov2 with its fastest engine:
#   docker build -t dinov2 .                              # for CPUs
#   docker build -t dinov2:cuda --build-arg CUDA=1 .      # for NVIDIA GPUs; run it with --gpus all
#   docker run --rm -v "$PWD:/work" dinov2 embed photos --model starter -o photos.parquet

FROM node:22-bookworm-slim AS build
# Any version of Debian's compiler serves, and a pinned one is gone from the mirrors with the next update.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY package.json package-lock.json ./
RUN npm ci --ignore-scripts --no-audit --no-fund
COPY . ./
RUN mkdir /packed && npm pack --pack-destination /packed

FROM node:22-bookworm-slim
ARG CUDA=
# g++ compiles the addon of the torch engine, and Python brings libtorch.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install --yes --no-install-recommends g++ make python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /packed /packed
RUN npm install --global --no-audit --no-fund /packed/dinov2-*.tgz \
 && rm -r /packed /root/.npm
ENV XDG_DATA_HOME=/opt/dinov2/data XDG_CACHE_HOME=/opt/dinov2/cache
RUN dinov2 engine install torch --yes ${CUDA:+--cuda}
WORKDIR /work
ENTRYPOINT ["dinov2"]
CMD ["--help"]
