(() => {
  'use strict';
  const tip = document.getElementById('tip');
  const say = (svg, dot) => {
    svg.querySelectorAll('.near').forEach((each) => each.classList.remove('near'));
    if (!dot) { tip.hidden = true; return; }
    dot.classList.add('near');
    tip.textContent = dot.dataset.text;
    tip.hidden = false;
    const at = dot.getBoundingClientRect();
    const room = document.documentElement.clientWidth - tip.offsetWidth - 8;
    const left = Math.max(8, Math.min(at.left + at.width / 2 - tip.offsetWidth / 2, room));
    const above = at.top - tip.offsetHeight - 10;
    tip.style.left = `${left + window.scrollX}px`;
    tip.style.top = `${(above > 0 ? above : at.bottom + 10) + window.scrollY}px`;
  };
  document.querySelectorAll('.chart > svg').forEach((svg) => {
    const dots = [...svg.querySelectorAll('.tip')];
    // The browser would show them beside ours.
    dots.forEach((dot) => dot.querySelector('title')?.remove());
    const centre = (dot) => {
      const box = dot.getBoundingClientRect();
      return [box.left + box.width / 2, box.top + box.height / 2, box];
    };
    const distance = (dot, event) => {
      const [x, y, box] = centre(dot);
      const inside = dot.tagName === 'rect' && event.clientX >= box.left && event.clientX <= box.right;
      return inside ? Math.abs(y - event.clientY) / 1000 : Math.hypot(x - event.clientX, (y - event.clientY) / 2);
    };
    const nearest = (event) => dots.reduce(
      (best, dot) => { const d = distance(dot, event); return d < best[0] ? [d, dot] : best; },
      [Infinity, null])[1];
    svg.addEventListener('pointermove', (event) => say(svg, nearest(event)));
    svg.addEventListener('pointerleave', () => say(svg, null));
    svg.addEventListener('blur', () => say(svg, null));
    let place = -1;
    svg.addEventListener('keydown', (event) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (event.key === 'Escape') say(svg, null);
      if (!step || !dots.length) return;
      event.preventDefault();
      place = (place + step + dots.length) % dots.length;
      say(svg, dots[place]);
    });
  });
  document.querySelectorAll('.copy').forEach((button) => {
    button.hidden = false;
    button.addEventListener('click', async () => {
      const code = button.parentElement.querySelector('code');
      try {
        await navigator.clipboard.writeText(code.textContent);
      } catch {
        getSelection().selectAllChildren(code);
        document.execCommand('copy');
      }
      button.textContent = 'Copied';
      setTimeout(() => { button.textContent = 'Copy'; }, 1500);
    });
  });
})();
