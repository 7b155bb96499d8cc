# An image for NVIDIA GPUs; --build-arg EXTRA=tpu for TPUs. Not built yet.
#
#   docker build -t diffusion_jax:0.3.0 .
#   docker run --gpus=all -v "$PWD/runs:/app/runs" diffusion_jax:0.3.0 \
#     --config=configs/digits.py
#
# The CUDA libraries come with jax[cuda], CUDA 12 today; for CUDA 13 change
# the last pip install to: -e '.[program]' 'jax[cuda13]'. Of the base only the driver's hooks
# are used.
FROM nvidia/cuda:12.6.3-base-ubuntu24.04

RUN apt-get update \
  && apt-get install -y --no-install-recommends python3 python3-venv \
  && rm -rf /var/lib/apt/lists/*

# ubuntu:24.04 has a user 1000 already
RUN userdel --remove ubuntu \
  && useradd --uid 1000 --create-home diffusion \
  && mkdir /app \
  && chown diffusion /app
USER diffusion
WORKDIR /app

ENV PATH=/home/diffusion/venv/bin:$PATH
RUN python3 -m venv /home/diffusion/venv
ARG EXTRA=cuda
COPY --chown=diffusion . .
RUN pip install --no-cache-dir -e ".[program,${EXTRA}]"

# exec form: signals reach Python itself
ENTRYPOINT ["python", "launch.py"]
