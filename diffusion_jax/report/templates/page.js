'use strict';

// The theme: of the system, until the button has been used.
const root = document.documentElement;
const dark = matchMedia('(prefers-color-scheme: dark)');
const themeButton = document.getElementById('theme');
let chosen = null;
try {
  chosen = localStorage.getItem('report-theme');
} catch {
  // A browser may refuse storage to files; the choice is then forgotten.
}

function applyTheme() {
  const now = chosen ?? (dark.matches ? 'dark' : 'light');
  root.dataset.theme = now;
  const other = now === 'dark' ? 'light' : 'dark';
  themeButton.textContent = other === 'dark' ? 'Dark' : 'Light';
  themeButton.setAttribute('aria-label', `Switch to the ${other} theme`);
}

themeButton.addEventListener('click', () => {
  chosen = root.dataset.theme === 'dark' ? 'light' : 'dark';
  try {
    localStorage.setItem('report-theme', chosen);
  } catch {
    // As above.
  }
  applyTheme();
});
dark.addEventListener('change', applyTheme);
applyTheme();

// Films: a slider, and a button that plays them.
for (const film of document.querySelectorAll('.film')) {
  const data = film.querySelector('script');
  if (!data) continue;
  const frames = JSON.parse(data.textContent);
  const image = film.querySelector('img');
  const slider = film.querySelector('input');
  const button = film.querySelector('button');
  let timer = null;

  const turn = () => {
    const [source, label] = frames[slider.value];
    image.src = source;
    image.alt = `${film.dataset.about}, ${label}`;
    film.querySelector('output').textContent = label;
    slider.setAttribute('aria-valuetext', label);
  };
  const stop = () => {
    clearInterval(timer);
    timer = null;
    button.textContent = 'Play';
  };
  slider.addEventListener('input', () => {
    stop();
    turn();
  });
  button.addEventListener('click', () => {
    if (timer !== null) {
      stop();
      return;
    }
    if (+slider.value === frames.length - 1) slider.value = 0;
    turn();
    button.textContent = 'Pause';
    timer = setInterval(() => {
      slider.value = +slider.value + 1;
      turn();
      if (+slider.value === frames.length - 1) stop();
    }, 4000 / Math.max(frames.length, 10));
  });
}
