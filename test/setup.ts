// Tests compare plain text: colour would depend on whether the machine calls itself a CI or a terminal.
process.env.NO_COLOR = "1";
delete process.env.FORCE_COLOR;
