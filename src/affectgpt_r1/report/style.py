"""The page's style sheet."""

STYLE = """
:root{color-scheme:light dark;--ink:#1d1f22;--soft:#5d6167;--faint:#c9ccd1;--rule:#e3e4e7;--paper:#fdfdfb;
--tint:#f4f4f0;--accent:#14598f;--hit:#14598f;--extra:#b4541a}
@media (prefers-color-scheme:dark){:root{--ink:#e4e5e7;--soft:#9da2a9;--faint:#4c5056;--rule:#33363b;--paper:#16181b;
--tint:#1e2125;--accent:#7db7e8;--hit:#7db7e8;--extra:#e59a62}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;padding:3rem 1.5rem 5rem;max-width:74rem;background:var(--paper);color:var(--ink);
font:1rem/1.55 Charter,"Bitstream Charter","Sitka Text",Cambria,Georgia,serif}
h1{font-size:1.9rem;line-height:1.2;font-weight:600;margin:0 0 .5rem;max-width:34rem}
h2{font-size:1.35rem;font-weight:600;margin:3.5rem 0 .3rem;padding-top:1.2rem;border-top:2px solid var(--ink)}
h3{font-size:1.05rem;font-weight:600;margin:2.2rem 0 .5rem}
p,ul{max-width:44rem;margin:.4rem 0}
a{color:var(--accent);text-underline-offset:.15em}
nav{margin:1.4rem 0 0;font-size:.95rem}
nav a{margin-right:1.1rem;white-space:nowrap;display:inline-block}
.banner{border-left:3px solid var(--extra);padding:.1rem 0 .1rem .8rem;margin:1rem 0}
.note,.notes{font-size:.85rem;line-height:1.5;color:var(--soft)}
.question{color:var(--soft);font-style:italic}
.scroll{overflow-x:auto;margin:.6rem 0 .5rem}
table{border-collapse:collapse;font-size:.9rem;line-height:1.35;font-variant-numeric:tabular-nums lining-nums;
border-top:1.6px solid var(--ink);border-bottom:1.6px solid var(--ink)}
th{font-weight:600;text-align:right;vertical-align:bottom;border-bottom:.8px solid var(--ink)}
th,td{padding:.35rem .6rem;white-space:nowrap}
th:first-child,td:first-child{padding-left:0;text-align:left;position:sticky;left:0;background:var(--paper)}
th:last-child,td:last-child{padding-right:0}
td{text-align:right;vertical-align:baseline}
th.text,td.text{text-align:left}
td.wrap,th.wrap{white-space:normal;min-width:14rem}
td.baseline{color:var(--soft)}
tbody tr:first-child td{padding-top:.55rem}
tbody tr:last-child td{padding-bottom:.55rem}
.verdict{font-weight:600}
.verdict.undecided,.verdict.not-run{font-weight:400;color:var(--soft)}
.verdict.not-reproduced{color:var(--extra)}
metric{margin:1.6rem 0}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.4rem}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:.6rem 1.2rem}
.panel{max-width:18rem}
.panel-title{font-size:.85rem;color:var(--soft)}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:8.5px;fill:var(--soft);font-variant-numeric:tabular-nums}
svg .value{fill:var(--accent);font-weight:600;font-size:9.5px}
svg polyline{fill:none}
svg .grid{stroke:var(--rule);stroke-width:.7}
svg .target{stroke:var(--ink);stroke-width:.9;stroke-dasharray:3 2.5}
svg .other{stroke:var(--faint);stroke-width:.8}
svg .own{stroke:var(--accent);stroke-width:1.6;stroke-linejoin:round}
svg .band{fill:var(--accent);opacity:.18}
svg .end{fill:var(--accent)}
.wheel path{stroke-width:1.4;stroke-linejoin:round}
.wheel .empty{fill:var(--tint);stroke:var(--rule);stroke-width:.7}
.wheel .hit{fill:var(--hit);stroke:var(--hit)}
.wheel .miss{fill:none;stroke:var(--hit);stroke-width:2.2}
.wheel .extra{fill:none;stroke:var(--extra);stroke-dasharray:3 2}
.wheel .dot{fill:var(--extra)}
.wheel text{font-size:10.5px;fill:var(--ink)}
.swatch{display:inline-block;width:.85rem;height:.85rem;margin-right:.5rem;vertical-align:-.1rem;border-radius:2px;
border:2px solid var(--hit)}
.swatch.hit{background:var(--hit)}
.swatch.extra{border:1.5px dashed var(--extra);background:radial-gradient(circle,var(--extra) 30%,transparent 34%)}
.wheel-key{display:grid;grid-template-columns:5rem auto 1fr;gap:.5rem 1.4rem;align-items:center;margin:1rem 0 1.5rem}
.wheel-key ul{list-style:none;padding:0;font-size:.9rem;white-space:nowrap}
.clip{border-top:.8px solid var(--faint);padding:1.2rem 0 1.6rem}
.clip header{display:grid;grid-template-columns:minmax(0,auto) minmax(0,1fr) 12.5rem;gap:.6rem 1.6rem;
align-items:center}
.frames{display:flex;gap:.3rem}
.frames img{height:6.5rem;max-width:100%;min-width:0;object-fit:contain;border-radius:2px}
.clip h3{margin:0 0 .2rem}
.subtitle{font-style:italic}
.what{color:var(--soft)}
.answers{display:grid;grid-template-columns:repeat(auto-fill,minmax(20rem,1fr));gap:1.1rem 1.6rem;margin-top:1.1rem}
.answer{display:grid;grid-template-columns:4.2rem minmax(0,1fr);gap:.9rem;align-items:start}
.answer p{margin:.1rem 0;overflow-wrap:anywhere;line-height:1.4}
h4{font-size:.85rem;font-weight:400;color:var(--soft);margin:0;display:flex;flex-wrap:wrap;gap:0 .8rem}
.score{margin-left:auto;color:var(--ink);font-variant-numeric:tabular-nums}
.word-hit{font-weight:700}
.word-unmapped{color:var(--soft)}
.sectors,details{font-size:.8rem;color:var(--soft)}
summary{cursor:pointer}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.3rem 0;padding:.5rem .6rem;background:var(--tint);
max-height:14rem;overflow:auto;font:.8rem/1.45 ui-monospace,"DejaVu Sans Mono",Menlo,monospace;color:var(--ink)}
@media (max-width:46rem){.panel svg text{font-size:10.5px}.panel svg .value{font-size:11.5px}
body{padding:1.6rem 1rem 3rem}h1{font-size:1.5rem}
.clip header{grid-template-columns:1fr}.clip header .wheel{max-width:15rem}.answers{grid-template-columns:1fr}
.wheel-key{grid-template-columns:4.5rem 1fr}.wheel-key p{grid-column:1/-1}
.panels{grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr))}.frames img{height:auto;flex:1 1 0;width:0}}
@media print{body{max-width:none;padding:0}details{display:none}}
"""
