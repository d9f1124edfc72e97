package main

import (
	"fmt"
	"strconv"
	"strings"
)

// flagSet reads the flags of one command. It exists because a flag library
// costs more at start than creating a container's namespaces.
//
// A flag is written --name value, --name=value or, where it has a letter,
// -n value. Switches take no value but --name=false. The first argument that is
// no flag, or --, ends the flags.
type flagSet struct {
	command string
	flags   []flag
	dashes  bool // "--" ended the flags
}

type flag struct {
	name   string
	letter byte   // 0: none
	value  string // what the value is called in the help; "" for a switch
	help   string
	set    func(value string) error
	hidden bool
}

// newFlags returns an empty set. It has room for the flags of any command: each
// time it grew it would touch memory of another size.
func newFlags(command string) *flagSet {
	return &flagSet{command: command, flags: make([]flag, 0, 56)}
}

func (f *flagSet) add(name string, letter byte, value, help string, set func(string) error) {
	f.flags = append(f.flags, flag{name: name, letter: letter, value: value, help: help, set: set})
}

// hide keeps the flag added last out of the help.
func (f *flagSet) hide() { f.flags[len(f.flags)-1].hidden = true }

func (f *flagSet) String(p *string, name string, letter byte, value, help string) {
	f.add(name, letter, value, help, func(v string) error { *p = v; return nil })
}

func (f *flagSet) Strings(p *[]string, name string, letter byte, value, help string) {
	f.add(name, letter, value, help, func(v string) error { *p = append(*p, v); return nil })
}

func (f *flagSet) Bool(p *bool, name string, letter byte, help string) {
	f.add(name, letter, "", help, func(v string) error {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return fmt.Errorf("want true or false")
		}
		*p = b
		return nil
	})
}

func (f *flagSet) Int(p *int, name string, letter byte, value, help string) {
	f.add(name, letter, value, help, func(v string) error {
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("want a number")
		}
		*p = n
		return nil
	})
}

// usageError is a mistake in the command line.
type usageError struct{ command, text string }

func (e *usageError) Error() string { return e.text }

func (f *flagSet) fail(format string, args ...any) error {
	return &usageError{f.command, fmt.Sprintf(format, args...)}
}

// parse reads flags from args and returns what follows them.
func (f *flagSet) parse(args []string) ([]string, error) {
	for len(args) > 0 {
		arg := args[0]
		if len(arg) < 2 || arg[0] != '-' {
			return args, nil
		}
		args = args[1:]
		if arg == "--" {
			f.dashes = true
			return args, nil
		}
		name, value, hasValue := strings.Cut(strings.TrimPrefix(arg[1:], "-"), "=")
		if name == "help" || arg == "-h" {
			return nil, errHelp
		}
		fl := f.find(arg, name)
		if fl == nil {
			var err error
			if args, err = f.cluster(arg, args); err != nil {
				return nil, err
			}
			continue
		}
		if !hasValue {
			switch {
			case fl.value == "":
				value = "true"
			case len(args) == 0:
				return nil, f.fail("flag %s needs a value: %s", arg, fl.value)
			default:
				value, args = args[0], args[1:]
			}
		}
		if err := fl.set(value); err != nil {
			return nil, f.fail("flag --%s: invalid value %q: %v", fl.name, value, err)
		}
	}
	return nil, nil
}

func (f *flagSet) find(arg, name string) *flag {
	for i := range f.flags {
		fl := &f.flags[i]
		// Like runc, accept a single dash in front of a long name too.
		if fl.name == name || len(name) == 1 && fl.letter == name[0] && !strings.HasPrefix(arg, "--") {
			return fl
		}
	}
	return nil
}

// cluster reads several letters in one argument: -it, or a letter with its
// value: -u0.
func (f *flagSet) cluster(arg string, args []string) ([]string, error) {
	if strings.HasPrefix(arg, "--") {
		return nil, f.fail("unknown flag %s", arg)
	}
	for i := 1; i < len(arg); i++ {
		fl := f.find("-", arg[i:i+1])
		if fl == nil {
			return nil, f.fail("unknown flag %s", arg)
		}
		value := "true"
		if fl.value != "" {
			value = arg[i+1:]
			if value == "" {
				if len(args) == 0 {
					return nil, f.fail("flag -%c needs a value: %s", arg[i], fl.value)
				}
				value, args = args[0], args[1:]
			}
			i = len(arg)
		}
		if err := fl.set(value); err != nil {
			return nil, f.fail("flag --%s: invalid value %q: %v", fl.name, value, err)
		}
	}
	return args, nil
}

// usage lists the flags, two columns.
func (f *flagSet) usage() string {
	var b strings.Builder
	for _, fl := range f.flags {
		if fl.hidden {
			continue
		}
		left := "    --" + fl.name
		if fl.letter != 0 {
			left = "-" + string(fl.letter) + ", --" + fl.name
		}
		if fl.value != "" {
			left += " " + fl.value
		}
		fmt.Fprintf(&b, "  %-32s %s\n", left, fl.help)
	}
	return b.String()
}
