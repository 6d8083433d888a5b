(() => {
  const specs = JSON.parse(document.getElementById("page-charts").textContent);
  const config = JSON.parse(document.getElementById("page-config").textContent);
  const narrow = (config) => ({...config, axisY: {...config.axisY, titleFontSize: 11}, axisX: {labelOverlap: true, tickCount: 5}});
  const draw = async () => {
    for (const place of document.querySelectorAll(".chart")) {
      const fitted = place.clientWidth < 480 ? narrow(config) : config;
      const spec = specs[place.dataset.chart];
      const params = spec.params.map((param) => (place.clientWidth < 480 ? {...param, value: 16} : param));
      await vegaEmbed(place, {...spec, params, config: fitted}, {actions: false, renderer: "svg"});
      place.querySelector("svg")?.setAttribute("aria-label", place.getAttribute("aria-label"));
    }
    document.body.dataset.drawn = "yes";
  };
  draw();
  const save = document.getElementById("save");
  save?.addEventListener("click", () => {
    const link = document.createElement("a");
    const text = document.getElementById("page-document").textContent;
    link.href = URL.createObjectURL(new Blob([text], {type: "application/json"}));
    link.download = save.dataset.name;
    link.click();
    URL.revokeObjectURL(link.href);
  });
})();
