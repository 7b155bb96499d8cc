"""Pure functions on arrays for the equations of diffusion models.

Glossary. Singular `alpha, sigma` are the coefficients of the marginal
x_t = alpha * x_0 + sigma * eps (the convention of VDM, DPM-Solver and Imagen;
alpha is the square root of DDPM's alpha-bar). Plural `betas, alphas,
alpha_bars` are DDPM's sequences of length T: entry i - 1 belongs to the paper's
step i in {1..T}; step 0 is clean data. Discrete time is t = i / T.

The guidance `scale` w multiplies the difference of the two predictions:
uncond + w * (cond - uncond). w = 1 is the plain conditional model, w = 0 the
unconditional one (Ho & Salimans write 1 + w for it). Masks are True where the
image is *known*.

Images are [B, ...], levels are [] or [B]. Time runs from 0 (clean) to 1
(noise); s < t, so `level_s` is always the cleaner of two levels. Functions that
take both expect level_s first; the step of a `Sampler` takes them by name.
"""
