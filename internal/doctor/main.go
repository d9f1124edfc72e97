package doctor

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Main runs "minirun doctor" with the arguments after that word. It returns 0
// if everything is there that running containers takes, 1 if not or if the
// result could not be written, and 2 for wrong usage.
func Main(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	format := flags.String("format", "text", "")
	usage := func(w io.Writer) {
		fmt.Fprint(w, "usage: minirun doctor [--format text|json]\n\nSays what minirun can do on this host, what not, and what would help.\nExit status: 0 if containers can run, 1 if something for it is missing.\n")
	}
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		usage(stdout)
		return 0
	case err != nil:
		fmt.Fprintf(stderr, "minirun: doctor: %v\n", err)
		return 2
	case flags.NArg() != 0:
		fmt.Fprintf(stderr, "minirun: doctor: unexpected argument %q\n", flags.Arg(0))
		return 2
	case *format != "text" && *format != "json":
		fmt.Fprintf(stderr, "minirun: doctor: unknown format %q\nhint: text and json are known\n", *format)
		return 2
	}
	checks := Checks()
	var err error
	if *format == "json" {
		err = WriteJSON(stdout, checks)
	} else {
		err = WriteText(stdout, checks, coloured(stdout))
	}
	if err != nil {
		fmt.Fprintf(stderr, "minirun: doctor: write: %v\n", err)
		return 1
	}
	if failed(checks) {
		return 1
	}
	return 0
}

// WriteJSON writes checks as one array.
func WriteJSON(w io.Writer, checks []Check) error {
	b, err := json.MarshalIndent(checks, "", "  ")
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// coloured: w is a terminal, and its user has nothing against colours
// (https://no-color.org).
func coloured(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
