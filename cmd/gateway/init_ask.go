package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
)

// A dialogue asks a person at a terminal, or answers by flags and defaults for
// one who is not there.
type dialogue struct {
	in  *bufio.Reader // nil: nobody is there
	out io.Writer
}

func (d *dialogue) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// A question is asked until its answer is right.
type question struct {
	text     string
	flag     string // that answers it
	given    string // by the flag; "": it was not given
	fallback string // the answer of who only presses Enter; "": there is none
	empty    bool   // no answer is one, too
	wrong    func(answer string) error
}

func (q *question) check(answer string) error {
	if q.wrong == nil || answer == "" && q.empty {
		return nil
	}
	return q.wrong(answer)
}

func (d *dialogue) ask(ctx context.Context, q question) (string, error) {
	if answer := cmp.Or(q.given, q.fallback); q.given != "" || d.in == nil {
		if answer == "" && !q.empty {
			return "", usageError("%s: nobody is there to be asked, and there is no default: give --%s", strings.ToLower(q.text[:1])+q.text[1:], q.flag)
		}
		if err := q.check(answer); err != nil {
			return "", usageError("--%s: %w", q.flag, err)
		}
		return answer, nil
	}
	for {
		line, err := d.prompt(ctx, q.text, q.fallback)
		if errors.Is(err, io.EOF) {
			return "", fmt.Errorf("the input ended at this question, which --%s answers, too", q.flag)
		} else if err != nil {
			return "", err
		}
		answer := cmp.Or(line, q.fallback)
		if answer == "" && !q.empty {
			continue
		}
		if err := q.check(answer); err == nil {
			return answer, nil
		} else {
			d.say("%v", err)
		}
	}
}

// prompt asks once. An error begins a line of its own.
func (d *dialogue) prompt(ctx context.Context, text, fallback string) (string, error) {
	if fallback != "" {
		text += " [" + fallback + "]"
	}
	fmt.Fprintf(d.out, "%s: ", text)
	line, err := nextLine(ctx, d.in)
	if err != nil {
		d.say("")
	}
	return strings.TrimSpace(line), err
}

// sure asks for a yes or a no.
func (d *dialogue) sure(ctx context.Context, text string, fallback bool) (bool, error) {
	if d.in == nil {
		return fallback, nil
	}
	choice := map[bool]string{true: "Y/n", false: "y/N"}[fallback]
	for {
		line, err := d.prompt(ctx, text, choice)
		if errors.Is(err, io.EOF) {
			return false, errors.New("the input ended at this question, which --yes answers, too")
		} else if err != nil {
			return false, err
		}
		switch strings.ToLower(line) {
		case "":
			return fallback, nil
		case "y", "yes":
			return true, nil
		case "n", "no":
			return false, nil
		}
	}
}
