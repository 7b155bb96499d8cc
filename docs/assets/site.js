// Formulas that arithmatex marked, drawn by KaTeX of this site.
for (const element of document.querySelectorAll('.arithmatex')) {
  const display = element.tagName === 'DIV'
  const formula = element.textContent.trim().slice(2, -2) // \( \) or \[ \]
  katex.render(formula, element, { displayMode: display, throwOnError: false })
}

// A name for the search dialog, which the theme leaves without one.
document.querySelector('.md-search')?.setAttribute('aria-label', 'Search')
