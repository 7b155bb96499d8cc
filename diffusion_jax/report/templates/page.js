'use strict';

// The theme: of the system, until the button has been used.
const root = document.documentElement;
const dark = matchMedia('(prefers-color-scheme: dark)');
const themeButton = document.getElementById('theme');
const plots = [];
let chosen = null;
try {
  chosen = localStorage.getItem('report-theme');
} catch {
  // A browser may refuse storage to files; the choice is then forgotten.
}

function colour(name) {
  return getComputedStyle(root).getPropertyValue(name).trim();
}

function paint(figure) {
  const [ink, soft, line] = ['--ink', '--soft', '--line'].map(colour);
  const around = [
    ...figure.above, ...figure.below, ...figure.left, ...figure.right,
    ...figure.center,
  ];
  for (const model of around) {
    if (model.type.endsWith('Axis')) {
      model.setv({
        axis_label_text_color: soft, major_label_text_color: soft,
        axis_line_color: line, major_tick_line_color: line,
      });
    } else if (model.type === 'Grid') {
      model.setv({grid_line_color: line});
    } else if (model.type === 'Legend') {
      model.setv({label_text_color: ink});
    }
  }
}

function applyTheme() {
  const now = chosen ?? (dark.matches ? 'dark' : 'light');
  root.dataset.theme = now;
  const other = now === 'dark' ? 'light' : 'dark';
  themeButton.textContent = other === 'dark' ? 'Dark' : 'Light';
  themeButton.setAttribute('aria-label', `Switch to the ${other} theme`);
  plots.forEach(paint);
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

// Charts near the view are drawn first. The others follow while the browser is
// idle: a chart is painted too late if its drawing begins when one prints.
async function show(script) {
  const place = document.getElementById(script.dataset.plot);
  const views = await Bokeh.embed.embed_item(
    JSON.parse(script.textContent), script.dataset.plot);
  const [view] = Array.isArray(views) ? views : views.roots;
  const figure = view.model;
  if (matchMedia('(pointer: coarse)').matches) {
    // A finger scrolls the page, until a button says that it zooms.
    for (const tool of figure.toolbar.tools) {
      if (tool.type === 'BoxZoomTool') tool.active = false;
    }
  }
  plots.push(figure);
  paint(figure);
  place.dataset.drawn = 'true';
}

const undrawn = new Set(document.querySelectorAll('script[data-plot]'));
async function showOnce(script) {
  if (undrawn.delete(script)) await show(script);
}

const watch = new IntersectionObserver((entries) => {
  for (const entry of entries.filter((each) => each.isIntersecting)) {
    watch.unobserve(entry.target);
    showOnce(document.querySelector(`script[data-plot="${entry.target.id}"]`));
  }
}, {rootMargin: '600px'});
document.querySelectorAll('.plot').forEach((place) => watch.observe(place));

const whenIdle = window.requestIdleCallback ?? setTimeout;
async function showRest() {
  for (const script of undrawn) {
    await showOnce(script);
    await new Promise((done) => whenIdle(done));
  }
}
addEventListener('load', () => whenIdle(showRest));

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
