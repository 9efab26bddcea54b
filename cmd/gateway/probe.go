package main

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"edgegateway/devices/modbus"
	"edgegateway/internal/config"
	"edgegateway/mapping"
)

// A wish is a value that the user sees on the device.
type wish struct {
	name  string
	value float64
}

func newProbe(opts *options) *cobra.Command {
	var likes []string
	var near string
	var unit int
	var within float64
	var most int
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "probe BUS --unit N --like NAME=VALUE",
		ValidArgsFunction: completeBus(opts),
		Short:             "Find the register, type and order of a value that the device shows",
		Long: `probe looks for a value that you read off the device: in both register tables,
one address before and after the one that is thought of, in all types, byte
orders and usual scales. What fits is printed as TOML, the likeliest first.

Where it looks: near the register that --near names; else where the device's
configuration or, without one, any profile has a point of that name; and in the
first 100 registers. It only reads, and goes through the gateway if that runs.

Two values at once rule out what fits by chance; a second run an hour later does,
too.`,
		Example: `  gateway probe rs485 --unit 1 --like voltage_l1=230
  gateway probe rs485 --unit 1 --like 230.4 --near input:0 --within 1
  gateway probe 192.168.10.5 --unit 1 --like voltage=231 --like power=1520 --near 40071`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("unit") || unit < 0 || unit > 255 {
				return usageError("probe needs --unit, a unit id from 0 to 255; `gateway scan %s` finds them", args[0])
			}
			if within <= 0 || within > 50 {
				return usageError("--within %v: it is a deviation in percent, more than 0 and at most 50", within)
			}
			wishes, err := parseWishes(likes)
			if err != nil {
				return err
			}
			ctx, stop := withSignals(cmd.Context())
			defer stop()
			p := &probe{unit: byte(unit), wishes: wishes, within: within / 100}
			if err := p.aim(ctx, opts, args[0], near); err != nil {
				return err
			}
			found, err := p.run(ctx)
			if err != nil {
				return err
			}
			if asJSON {
				return json.NewEncoder(os.Stdout).Encode(found)
			}
			return printGuesses(os.Stdout, wishes, found, most)
		},
	}
	cmd.Flags().StringArrayVar(&likes, "like", nil, "a value the device shows, with the name of its point or without: voltage_l1=230")
	cmd.Flags().StringVar(&near, "near", "", "where the manual says it is: input:0, holding:100 or 30001")
	cmd.Flags().IntVar(&unit, "unit", 0, "unit id of the device: 0 to 255")
	cmd.Flags().Float64Var(&within, "within", 3, "how far off a value may be, in percent")
	cmd.Flags().IntVar(&most, "most", 10, "print at most so many for each value")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print all that fits as JSON")
	return cmd
}

func parseWishes(likes []string) (list []wish, err error) {
	for _, text := range likes {
		name, number, named := strings.Cut(text, "=")
		if !named {
			name, number = "value", text
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
		if err != nil || v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, usageError("--like %q: it is a number other than 0, such as voltage_l1=230", text)
		}
		list = append(list, wish{strings.TrimSpace(name), v})
	}
	if len(list) == 0 {
		return nil, usageError("probe needs --like, a value that the device shows: --like voltage_l1=230")
	}
	return list, nil
}

// A probe looks for values on one unit.
type probe struct {
	place  *busPlace
	unit   byte
	wishes []wish
	within float64 // largest deviation, as a share

	places map[wish][]modbus.Register // where each is thought to be
	near   bool                       // the user says so: look nowhere else
	tables map[modbus.Table]*words
}

// A guess is one reading of registers that gives the value wished for.
type guess struct {
	Point   string  `json:"point"`
	Table   string  `json:"table"`
	Address int     `json:"address"`
	Type    string  `json:"type"`
	Order   string  `json:"order"`
	Scale   string  `json:"scale"`
	Value   string  `json:"value"`
	Raw     string  `json:"raw"`
	Offset  int     `json:"offset"` // from where it was thought to be; 0 also where nothing was thought
	Penalty float64 `json:"penalty"`

	wish wish
}

// aim finds the bus and where to look.
func (p *probe) aim(ctx context.Context, opts *options, target, near string) error {
	finder, err := newBusFinder(ctx, opts)
	if err != nil {
		return err
	}
	if p.place = finder.find(target); p.place == nil {
		hosts, err := hostsOf(target)
		if err != nil || len(hosts) != 1 {
			return usageError("%q is neither a bus (there are: %s) nor an address such as 192.168.10.5", target, finder.names())
		}
		url := "tcp://" + hosts[0]
		p.place = &busPlace{bus: url, cfg: modbus.Config{URL: url}}
	}
	p.places = map[wish][]modbus.Register{}
	if p.near = near != ""; p.near {
		r, _, err := parseSpan(near)
		if err != nil {
			return err
		}
		if r.Table.Bits() {
			return usageError("--near %s: values are in input and holding registers", near)
		}
		for _, w := range p.wishes {
			p.places[w] = []modbus.Register{r}
		}
		return nil
	}
	for _, w := range p.wishes {
		p.places[w] = placesOf(w.name, p.place.known[p.unit])
		if len(p.places[w]) == 0 {
			p.places[w] = placesOf(w.name, profileDevices(config.Profiles(opts.config, config.Options{})))
		}
	}
	return nil
}

func profileDevices(profiles []*config.Profile) (list []*mapping.Device) {
	for _, p := range profiles {
		list = append(list, p.Device)
	}
	return list
}

// placesOf returns where devices have a point of this name.
func placesOf(name string, devs []*mapping.Device) (list []modbus.Register) {
	for _, dev := range devs {
		for _, point := range dev.Points {
			r, ok := modbus.RegisterOf(point.Source)
			if !ok || point.Name != name || r.Table.Bits() {
				continue
			}
			r.Count = 0
			if !slices.Contains(list, r) {
				list = append(list, r)
			}
		}
	}
	return list
}

// sweep is how many registers from 0 on are searched where nobody said where
// to look.
const sweep = 100

// run returns all that fits, by wish and then the likeliest first.
func (p *probe) run(ctx context.Context) ([]guess, error) {
	a, err := p.place.asker()
	if err != nil {
		return nil, err
	}
	defer a.close()
	return p.search(ctx, a)
}

func (p *probe) search(ctx context.Context, a *asker) ([]guess, error) {
	p.tables = map[modbus.Table]*words{}
	for _, t := range []modbus.Table{modbus.Input, modbus.Holding} {
		p.tables[t] = &words{asker: a, unit: p.unit, table: t, known: map[int][]byte{}}
	}
	all := []guess{}
	for _, w := range p.wishes {
		guesses, err := p.look(ctx, w)
		if err != nil {
			return nil, err
		}
		all = append(all, guesses...)
	}
	agree(all)
	slices.SortStableFunc(all, func(a, b guess) int {
		return cmp.Or(cmp.Compare(slices.Index(p.wishes, a.wish), slices.Index(p.wishes, b.wish)), cmp.Compare(a.Penalty, b.Penalty))
	})
	return all, nil
}

func (p *probe) look(ctx context.Context, w wish) ([]guess, error) {
	best := map[guess]float64{} // by all but its penalty
	note := func(g guess) {
		penalty := g.Penalty
		g.Penalty = 0
		if old, ok := best[g]; !ok || penalty < old {
			best[g] = penalty
		}
	}
	seen := map[string]bool{} // places that have been tried at their likeliest
	try := func(t modbus.Table, at, offset int, penalty float64) {
		if key := fmt.Sprint(t, at); !seen[key] {
			seen[key] = true
			p.tryAt(w, t, at, offset, penalty, note)
		}
	}
	for _, place := range p.places[w] {
		for _, t := range []modbus.Table{place.Table, modbus.Input + modbus.Holding - place.Table} {
			at := int(place.Address)
			if err := p.tables[t].ensure(ctx, at, at+4); err != nil {
				return nil, p.lost(err)
			}
			if at > 0 {
				if err := p.tables[t].ensure(ctx, at-1, at-1); err != nil {
					return nil, p.lost(err)
				}
			}
		}
	}
	for _, offset := range []int{0, -1, 1} { // the likeliest first, over all places
		for _, other := range []bool{false, true} {
			for _, place := range p.places[w] {
				t, penalty := place.Table, 2*math.Abs(float64(offset))
				if other {
					t, penalty = modbus.Input+modbus.Holding-t, penalty+1.5
				}
				try(t, int(place.Address)+offset, offset, penalty)
			}
		}
	}
	if p.near || len(p.places[w]) == 1 && len(best) > 0 {
		return guessesOf(best), nil
	}
	for _, t := range []modbus.Table{modbus.Input, modbus.Holding} {
		if err := p.tables[t].ensure(ctx, 0, sweep-1); err != nil {
			return nil, p.lost(err)
		}
		for at := range sweep {
			try(t, at, 0, 5)
		}
	}
	return guessesOf(best), nil
}

func guessesOf(best map[guess]float64) (list []guess) {
	for g, penalty := range best {
		g.Penalty = penalty
		list = append(list, g)
	}
	slices.SortFunc(list, func(a, b guess) int {
		return cmp.Or(cmp.Compare(a.Penalty, b.Penalty), cmp.Compare(a.Table, b.Table), cmp.Compare(a.Address, b.Address), cmp.Compare(a.Type+a.Order+a.Scale, b.Type+b.Order+b.Scale))
	})
	return list
}

// lost words the error of a unit that does not answer.
func (p *probe) lost(err error) error {
	if replyOf(err) == silent {
		return fmt.Errorf("unit %d on %s does not answer: %w; `gateway scan %s` finds those that do", p.unit, p.place.bus, err, p.place.bus)
	}
	return err
}

// The penalties say how much less likely a reading is than a plain float in
// the standard order: a float that fits by chance is rare, a whole number that
// fits with one of six scales is not.
var (
	probeTypes = []struct {
		typ     mapping.Type
		penalty float64
	}{
		{mapping.F32, 0}, {mapping.U16, 0.5}, {mapping.I16, 0.6}, {mapping.U32, 0.8}, {mapping.I32, 0.9}, {mapping.F64, 1},
		{mapping.U64, 2}, {mapping.I64, 2}, {mapping.BCD16, 3}, {mapping.BCD32, 3}, {mapping.F16, 4},
	}
	probeOrders = []struct {
		order   mapping.Order
		penalty float64
	}{{mapping.ABCD, 0}, {mapping.CDAB, 1}, {mapping.BADC, 4}, {mapping.DCBA, 4}}
	probeScales = []struct {
		exp     int8
		penalty float64
	}{{0, 0}, {-1, 0.5}, {-2, 1}, {-3, 1.5}, {1, 3}, {2, 3}, {3, 3}}
)

// tryAt notes all readings from one register on that give the value.
func (p *probe) tryAt(w wish, t modbus.Table, at, offset int, penalty float64, note func(guess)) {
	for _, typ := range probeTypes {
		raw := p.tables[t].get(at, typ.typ.Registers(0))
		if raw == nil {
			continue
		}
		for _, order := range probeOrders {
			if len(raw) == 2 && (order.order == mapping.CDAB || order.order == mapping.DCBA) {
				continue // one register has no order of registers
			}
			for _, scale := range probeScales {
				if typ.typ == mapping.F32 && scale.exp < 0 && scale.exp != -3 || typ.typ == mapping.F16 && scale.exp != 0 {
					continue // floats are in the unit, or in its thousandfold
				}
				g := guess{Point: w.name, Table: t.String(), Address: at, Type: typ.typ.String(), Order: order.order.String(), Raw: registers(raw), Offset: offset, wish: w}
				deviation, ok := g.read(raw, typ.typ, order.order, mapping.Decimal{Mant: 1, Exp: scale.exp})
				if ok && deviation <= p.within {
					g.Penalty = penalty + typ.penalty + order.penalty + scale.penalty + 20*deviation + wasteful(raw, typ.typ)
					note(g)
				}
			}
		}
	}
}

// read decodes raw and returns by which share the value is off.
func (g *guess) read(raw []byte, typ mapping.Type, order mapping.Order, scale mapping.Decimal) (deviation float64, ok bool) {
	v, ok := numberAs(raw, typ, order, scale)
	f, _ := v.Float64()
	signed := typ == mapping.I16 || typ == mapping.I32 || typ == mapping.I64
	if !ok || signed && f >= 0 {
		return 0, false // the unsigned type says it already
	}
	g.Value, g.Scale = v.String(), scale.String()
	return math.Abs(f-g.wish.value) / math.Abs(g.wish.value), true
}

// wasteful counts against a type of several registers of which only one says
// anything: that one alone is as likely.
func wasteful(raw []byte, typ mapping.Type) float64 {
	used := 0
	for i := 0; i < len(raw); i += 2 {
		if raw[i]|raw[i+1] != 0 {
			used++
		}
	}
	if typ.Integer() && len(raw) > 2 && used < 2 {
		return 1
	}
	return 0
}

// agree favours guesses that read different values in the same way: a device
// has one order and one habit of counting.
func agree(all []guess) {
	type habit struct {
		table, typ, order string
		offset            int
	}
	of := func(g *guess) habit { return habit{g.Table, g.Type, g.Order, g.Offset} }
	names := map[habit]map[wish]bool{}
	for i := range all {
		h := of(&all[i])
		if names[h] == nil {
			names[h] = map[wish]bool{}
		}
		names[h][all[i].wish] = true
	}
	for i := range all {
		all[i].Penalty -= 2 * float64(len(names[of(&all[i])])-1)
	}
}

// printGuesses writes lines of a points table.
func printGuesses(out io.Writer, wishes []wish, found []guess, most int) error {
	var missing []string
	for _, w := range wishes {
		n := 0
		for i := range found {
			if found[i].wish != w {
				continue
			}
			if n == 0 {
				fmt.Fprintf(out, "# %s like %v, the likeliest first: keep one line in the device's points table\n", w.name, w.value)
			}
			if n++; n <= most {
				fmt.Fprintln(out, found[i].line())
			}
		}
		switch {
		case n == 0:
			missing = append(missing, fmt.Sprintf("%s=%v", w.name, w.value))
		case n > most:
			fmt.Fprintf(out, "# … and %d more: --within a smaller deviation, or a second --like\n", n-most)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("nothing fits %s: name the register from the manual with --near, allow more with --within, or look at all with `gateway read BUS/UNIT holding:0-50 --all-types`", strings.Join(missing, ", "))
	}
	return nil
}

func (g *guess) line() string {
	keys := fmt.Sprintf("%s = %d, type = %q", g.Table, g.Address, g.Type)
	if g.Order != mapping.ABCD.String() {
		keys += fmt.Sprintf(", order = %q", g.Order)
	}
	if g.Scale != "1" {
		keys += ", scale = " + g.Scale
	}
	note := fmt.Sprintf("%s is %s", g.Raw, g.Value)
	if g.Offset != 0 {
		note += fmt.Sprintf("; %+d from where it was thought", g.Offset)
	}
	return fmt.Sprintf("%-70s # %s", fmt.Sprintf("%s = { %s }", tomlKey(g.Point), keys), note)
}

// tomlKey quotes a key that needs it.
func tomlKey(name string) string {
	bare := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-'
	}
	if name != "" && strings.IndexFunc(name, func(r rune) bool { return !bare(r) }) < 0 {
		return name
	}
	return strconv.Quote(name)
}
