//! The light and dark colours of the page and of pictures.

use std::fmt::Write;

use strum::IntoEnumIterator;

use super::mark::Mark;

/// The colours that are not of marks: name, light, dark.
const COLOURS: [(&str, &str, &str); 11] = [
    ("page", "#f5f6f8", "#0e1116"),
    ("card", "#ffffff", "#161b22"),
    ("raised", "#eef1f5", "#1f2630"),
    ("ink", "#1b2230", "#e6eaf0"),
    ("soft", "#5a6475", "#9aa5b5"),
    ("line", "#dfe3ea", "#2c3440"),
    ("accent", "#2458c5", "#79aeff"),
    ("bad", "#cf222e", "#ff7b72"),
    ("odd", "#a36a00", "#e3b341"),
    ("good", "#0b8461", "#3fcf9f"),
    ("veil", "#e9ecf1", "#212934"),
];

/// All colours: name, light, dark.
fn colours() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let marks = Mark::iter().map(|mark| {
        let (light, dark) = mark.colours();
        (mark.name(), light, dark)
    });
    COLOURS.into_iter().chain(marks)
}

/// The styles of the parts of a picture, by class.
const SHAPES: &str = "\
.t{font-size:13px}.s{font-size:11.5px}.h{font-size:16px;font-weight:600}.b{font-size:24px;font-weight:600}\
.e{text-anchor:end}.m{text-anchor:middle}\
.grid{stroke-width:1}.thin{stroke-width:1.2;fill:none}.thick{stroke-width:2;fill:none}\
.dash{stroke-width:1.4;stroke-dasharray:5 4;fill:none}.area{fill-opacity:.16}.halo{paint-order:stroke;stroke-width:4;stroke-linejoin:round}";

/// For the page: colours are variables, which follow the system's theme unless the user chooses one.
pub fn page() -> String {
    let variables = |dark: bool| {
        let all = colours()
            .map(|(name, light, shade)| format!("--{name}:{};", if dark { shade } else { light }));
        all.collect::<String>()
    };
    let (light, dark) = (variables(false), variables(true));
    format!(
        ":root{{color-scheme:light;{light}}}\n\
         @media(prefers-color-scheme:dark){{:root:not([data-theme=light]){{color-scheme:dark;{dark}}}}}\n\
         :root[data-theme=dark]{{color-scheme:dark;{dark}}}\n{}{SHAPES}\n",
        classes(|(name, _, _)| format!("var(--{name})"))
    )
}

/// For a picture file: light, or dark in a viewer with a dark theme. The viewer provides the fonts.
pub fn picture() -> String {
    let dark = classes(|(_, _, dark)| dark.to_owned());
    format!(
        "text{{font-family:ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace;white-space:pre}}\
         {}{SHAPES}@media(prefers-color-scheme:dark){{{dark}}}",
        classes(|(_, light, _)| light.to_owned())
    )
}

/// The classes: `.f-NAME` fills, `.l-NAME` draws lines.
fn classes(colour: impl Fn((&'static str, &'static str, &'static str)) -> String) -> String {
    let mut text = String::new();
    for it in colours() {
        let (name, value) = (it.0, colour(it));
        // Writing to a string does not fail.
        let _ = write!(text, ".f-{name}{{fill:{value}}}.l-{name}{{stroke:{value}}}");
    }
    text
}
