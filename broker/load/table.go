package main

import (
	"fmt"
	"slices"
	"strings"
)

// A figure is what one run measured, by name.
type figure map[string]float64

// A table is printed row by row: in each field what the brokers have in turn,
// and the first one's share of the second's.
type table struct {
	peers   []peer
	columns []column
	titles  []string
}

type column struct {
	key, format string
	ratio       bool
}

func (l *load) table(titles ...string) *table { return &table{peers: l.peers, titles: titles} }

func (t *table) column(key, title, format string, ratio bool) {
	t.columns = append(t.columns, column{key, format, ratio})
	t.titles = append(t.titles, title)
}

func (t *table) head() {
	var names []string
	for _, p := range t.peers {
		names = append(names, p.name)
	}
	fmt.Printf("(%s = ratio)\n\n| %s |\n|%s\n", strings.Join(names, " / "), strings.Join(t.titles, " | "), strings.Repeat("---|", len(t.titles)))
	t.titles = nil
}

// row prints figures, of each peer those of its runs, or why there are none.
func (t *table) row(figures [][]figure, err error, first ...string) {
	if t.titles != nil {
		t.head()
	}
	if err != nil {
		first = append(first, err.Error())
		fmt.Printf("| %s |\n", strings.Join(first, " | "))
		return
	}
	for _, c := range t.columns {
		first = append(first, c.of(figures))
	}
	fmt.Printf("| %s |\n", strings.Join(first, " | "))
}

func (c column) of(figures [][]figure) string {
	var medians []float64
	var text []string
	for _, runs := range figures {
		m := median(runs, c.key)
		medians = append(medians, m)
		text = append(text, fmt.Sprintf(c.format, m))
	}
	s := strings.Join(text, " / ")
	if c.ratio && len(medians) == 2 && medians[1] > 0 {
		s += fmt.Sprintf(" = %.2f", medians[0]/medians[1])
	}
	return s
}

func median(runs []figure, key string) float64 {
	var values []float64
	for _, f := range runs {
		values = append(values, f[key])
	}
	slices.Sort(values)
	return values[len(values)/2]
}
