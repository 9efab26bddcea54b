package config

// The raw structs list every key there is: a key is known because it stands
// here as a tag. reference.toml explains each; a test keeps both alike.

type rawGateway struct {
	here
	Name     text                `toml:"name"`
	Timezone text                `toml:"timezone"`
	Clock    text                `toml:"clock"`
	Bus      tables[rawBus]      `toml:"bus"`
	Broker   rawBroker           `toml:"broker"`
	Spool    rawSpool            `toml:"spool"`
	Commands rawCommands         `toml:"commands"`
	Bridge   tables[rawBridge]   `toml:"bridge"`
	Publish  tables[rawPublish]  `toml:"publish"`
	HA       rawHomeAssistant    `toml:"homeassistant"`
	Web      rawWeb              `toml:"web"`
	Device   tables[rawNode]     `toml:"device"`
	Devices  tables[rawTemplate] `toml:"devices"`
}

type rawBus struct {
	here
	rawLine
	rawTLS
	Address    text      `toml:"address"`
	Protocol   text      `toml:"protocol"`
	Framing    text      `toml:"framing"`
	Timeout    duration  `toml:"timeout"`
	Delay      duration  `toml:"connect_delay"`
	Behind     rawBehind `toml:"behind"`
	RS485      rawRS485  `toml:"rs485"`
	LowLatency boolean   `toml:"low_latency"`
	Phase      text      `toml:"phase"`
	Pipeline   integer   `toml:"pipeline"`
	DTR        boolean   `toml:"dtr"`
	RTS        boolean   `toml:"rts"`
}

func (*rawBus) what() string { return "a bus" }

// rawLine is what a serial line is set to.
type rawLine struct {
	Baud   integer `toml:"baud"`
	Format text    `toml:"format"`
}

type rawRS485 struct {
	here
	RTS    text     `toml:"rts"`
	Before duration `toml:"before"`
	After  duration `toml:"after"`
}

type rawBehind struct {
	here
	rawLine
}

type rawBroker struct {
	here
	Listen     texts   `toml:"listen"`
	SocketMode text    `toml:"socket_mode"`
	Origins    texts   `toml:"origins"`
	Cert       pemFile `toml:"cert"`
	Key        pemFile `toml:"key"`
	ClientCA   pemFile `toml:"client_ca"`
	ClientCert text    `toml:"client_certificates"`
	rawLimits
	rawAccess
}

// rawLimits is what clients of the broker can take.
type rawLimits struct {
	MaxConnections   integer `toml:"max_connections"`
	MaxPerAddress    integer `toml:"max_connections_per_address"`
	MaxPacket        size    `toml:"max_packet"`
	MaxQueue         integer `toml:"max_queue"`
	MaxQueueBytes    size    `toml:"max_queue_bytes"`
	MaxInFlight      integer `toml:"max_in_flight"`
	MaxSubscriptions integer `toml:"max_subscriptions"`
	MaxLevels        integer `toml:"max_levels"`
	MaxRetained      integer `toml:"max_retained"`
	MaxRetainedBytes size    `toml:"max_retained_bytes"`

	MaxSessions      integer  `toml:"max_sessions"`
	MaxSessionQueue  integer  `toml:"max_session_queue"`
	MaxSessionBytes  size     `toml:"max_session_bytes"`
	MaxSessionAge    duration `toml:"max_session_age"`
	MaxSessionExpiry duration `toml:"max_session_expiry"`
	MaxKeepAlive     duration `toml:"max_keepalive"`
}

type rawClass struct {
	Size     size `toml:"size"`
	Sync     text `toml:"sync"`
	Compress text `toml:"compress"`
	Dir      text `toml:"dir"`
}

type rawSpoolClass struct {
	here
	rawClass
}

type rawSpool struct {
	here
	rawClass
	Critical rawSpoolClass `toml:"critical"`
	Sessions rawSpoolClass `toml:"sessions"`
}

type rawCommands struct {
	here
	MaxAge   duration `toml:"max_age"`
	Remember duration `toml:"remember"`
	Retained boolean  `toml:"retained"`
	Sync     text     `toml:"sync"`
}

type rawBridge struct {
	here
	URL      text   `toml:"url"`
	URLs     texts  `toml:"urls"`
	Version  text   `toml:"version"`
	ClientID text   `toml:"client_id"`
	Username text   `toml:"username"`
	Password secret `toml:"password"`
	rawTLS
	MinTLS  text     `toml:"min_tls"`
	ALPN    texts    `toml:"alpn"`
	Proxy   text     `toml:"proxy"`
	QoS     integer  `toml:"qos"`
	Send    words    `toml:"send"`
	Receive words    `toml:"receive"`
	Replay  text     `toml:"replay"`
	MaxAge  duration `toml:"max_age"`

	Unsynced     text     `toml:"unsynced"`
	UnsyncedHold duration `toml:"unsynced_hold"`

	KeepAlive duration `toml:"keepalive"`
	Window    integer  `toml:"window"`
	rawPace
}

func (*rawBridge) what() string { return "a bridge" }

// rawTLS is who proves what to whom on an encrypted connection.
type rawTLS struct {
	Cert       pemFile `toml:"cert"`
	Key        pemFile `toml:"key"`
	CA         pemFile `toml:"ca"`
	ServerName text    `toml:"server_name"`
}

type rawPublish struct {
	here
	Per     text    `toml:"per"`
	Topic   text    `toml:"topic"`
	Format  text    `toml:"format"`
	QoS     integer `toml:"qos"`
	Retain  boolean `toml:"retain"`
	Class   text    `toml:"class"`
	Devices texts   `toml:"devices"`

	Template    text    `toml:"template"`
	Time        text    `toml:"time"`
	Integers    text    `toml:"integers"`
	ID          boolean `toml:"id"`
	Measurement text    `toml:"measurement"`
	Tags        words   `toml:"tags"`
	BaseName    text    `toml:"base_name"`
}

func (*rawPublish) what() string { return "a publish table" }

type rawWeb struct {
	here
	Listen text    `toml:"listen"`
	Values boolean `toml:"values"`
}

type rawHomeAssistant struct {
	here
	Enabled    boolean  `toml:"enabled"`
	Prefix     text     `toml:"prefix"`
	Birth      text     `toml:"birth"`
	Node       text     `toml:"node"`
	Devices    texts    `toml:"devices"`
	DeviceName text     `toml:"device_name"`
	Area       text     `toml:"area"`
	Expires    duration `toml:"expires"`
}

// rawHint is what a point says of itself to Home Assistant.
type rawHint struct {
	here
	Name     text    `toml:"name"`
	Class    text    `toml:"class"`
	Icon     text    `toml:"icon"`
	Category text    `toml:"category"`
	Enabled  boolean `toml:"enabled"`
}

// rawNode is a table that is bound later, when its profile lies under it.
type rawNode struct{ at *node }

func (r *rawNode) bind(_ *binder, n *node) { r.at = n }

// rawTemplate is one table for many devices that are alike. All its other
// keys are those of a device.
type rawTemplate struct{ at *node }

func (r *rawTemplate) bind(_ *binder, n *node) { r.at = n }

// templateKeys is what a [devices.X] table holds of its own.
type templateKeys struct {
	here
	UnitIDs text            `toml:"unit_ids"`
	Device  tables[rawNode] `toml:"device"`
}

// rawDefaults is what points inherit: from their group, else their device.
type rawDefaults struct {
	Every duration `toml:"every"`
	Type  text     `toml:"type"`
	Order text     `toml:"order"`
	rawPolicy
}

type rawDevice struct {
	here
	rawDefaults
	Profile    text             `toml:"profile"`
	Bus        text             `toml:"bus"`
	UnitID     integer          `toml:"unit_id"`
	Name       text             `toml:"name"`
	Tags       words            `toml:"tags"`
	Stale      duration         `toml:"stale"`
	Timeout    duration         `toml:"timeout"`
	Pause      duration         `toml:"pause"`
	Delay      duration         `toml:"connect_delay"`
	MaxRead    integer          `toml:"max_read"`
	Gaps       boolean          `toml:"gaps"`
	Forbid     texts            `toml:"forbid"`
	Blocks     texts            `toml:"blocks"`
	Single     boolean          `toml:"single"`
	FromZero   texts            `toml:"from_zero"`
	SunSpec    anything         `toml:"sunspec"`
	Checksum   rawLineSum       `toml:"checksum"`
	Delimiter  text             `toml:"delimiter"`
	MaxLine    integer          `toml:"max_line"`
	Send       text             `toml:"send"`
	Retries    integer          `toml:"retries"`
	Parse      text             `toml:"parse"`
	Separator  text             `toml:"separator"`
	Pattern    text             `toml:"pattern"`
	Frame      rawFrame         `toml:"frame"`
	PointsFile rawPointsFile    `toml:"points_file"`
	Groups     tables[rawGroup] `toml:"groups"`
	Points     tables[rawPoint] `toml:"points"`
	Line       tables[rawTalk]  `toml:"line"`
	Setup      tables[rawSetup] `toml:"setup"`
	rawAbout
}

func (*rawDevice) what() string { return "a device" }

// rawAbout is what a profile says of the kind of device it is for.
type rawAbout struct {
	Maker       text           `toml:"maker"`
	Model       text           `toml:"model"`
	Checked     text           `toml:"checked"`
	Factory     rawFactory     `toml:"factory"`
	Fingerprint rawFingerprint `toml:"fingerprint"`
}

// rawFactory is what the maker sets such devices to.
type rawFactory struct {
	here
	rawLine
	UnitID integer `toml:"unit_id"`
	Port   integer `toml:"port"`
}

// rawFingerprint is what a register of such devices holds and others do not.
type rawFingerprint struct {
	here
	Input   integer  `toml:"input"`
	Holding integer  `toml:"holding"`
	Type    text     `toml:"type"`
	Is      anything `toml:"is"`
}

// rawFrame is how the frames of a device are made that are no lines.
type rawFrame struct {
	here
	Kind     text      `toml:"kind"`
	Start    text      `toml:"start"`
	End      text      `toml:"end"`
	Size     integer   `toml:"size"`
	Length   rawLength `toml:"length"`
	Checksum rawSum    `toml:"checksum"`
	Send     text      `toml:"send"`
	Retries  integer   `toml:"retries"`
	Address  text      `toml:"address"`
	MaxBaud  integer   `toml:"baud_max"`
	Wake     boolean   `toml:"wake"`
}

type rawLength struct {
	here
	Byte  integer `toml:"byte"`
	Type  text    `toml:"type"`
	Order text    `toml:"order"`
	Plus  integer `toml:"plus"`
}

type rawSum struct {
	here
	Kind   text    `toml:"kind"`
	From   integer `toml:"from"`
	Negate boolean `toml:"negate"`
	Order  text    `toml:"order"`
	Poly   integer `toml:"poly"`
	Init   integer `toml:"init"`
	RefIn  boolean `toml:"refin"`
	RefOut boolean `toml:"refout"`
	XorOut integer `toml:"xorout"`
}

// rawLineSum is the checksum of lines: the name of one that stands for all of
// it, or a table.
type rawLineSum struct {
	at   *node
	name text
	rawLineSumTable
}

type rawLineSumTable struct {
	rawSum
	Behind text `toml:"behind"`
}

func (s *rawLineSum) bind(b *binder, n *node) {
	s.at = n
	if n.isTable() {
		b.table(n, &s.rawLineSumTable, "a checksum")
		return
	}
	s.name.bind(b, n)
}

type rawGroup struct {
	here
	rawDefaults
}

func (*rawGroup) what() string { return "a group" }

// rawTalk is the points of one sentence of a bus that speaks by itself.
type rawTalk = tables[rawPoint]

type rawPoint struct {
	here
	rawDefaults
	off bool // `name = false`: not wanted

	Coil     integer  `toml:"coil"`
	Discrete integer  `toml:"discrete"`
	Input    integer  `toml:"input"`
	Holding  integer  `toml:"holding"`
	Ref      anything `toml:"ref"`
	Bit      integer  `toml:"bit"`
	FIFO     integer  `toml:"fifo"`
	Model    anything `toml:"model"`
	At       integer  `toml:"at"`
	Instance integer  `toml:"instance"`
	Field    anything `toml:"field"`
	Byte     integer  `toml:"byte"`

	Scale   anything `toml:"scale"`
	Offset  anything `toml:"offset"`
	Unit    text     `toml:"unit"`
	Enum    words    `toml:"enum"`
	Bits    words    `toml:"bits"`
	Invalid anything `toml:"invalid"`
	Write   anything `toml:"write"`
	Group   text     `toml:"group"`
	Kind    text     `toml:"kind"`
	Range   anything `toml:"range"`
	Wrap    anything `toml:"wrap"`
	MaxRate anything `toml:"max_rate"`
	Resets  boolean  `toml:"resets"`

	Compute     text     `toml:"compute"`
	Mask        integer  `toml:"mask"`
	ScaleFactor anything `toml:"scale_factor"`
	Chars       text     `toml:"chars"`
	Encoding    text     `toml:"encoding"`
	Zone        text     `toml:"zone"`

	OnLoss rawOnLoss `toml:"on_loss"`
	HA     anything  `toml:"homeassistant"`
}

// pointTable is rawPoint without its own bind.
type pointTable rawPoint

// bind takes a table, or false for a point of the profile that is not wanted.
func (p *rawPoint) bind(b *binder, n *node) {
	if v, ok := n.value.(bool); ok && !v {
		p.at, p.off = n, true
		return
	}
	if !n.isTable() {
		b.errorAt(n, "this is %s; a point is a table like { holding = 100 }, or false to drop one of the profile", n.kind())
		return
	}
	b.table(n, (*pointTable)(p), "a point")
}

// registerKeys are the keys that say in which table a register is.
var registerKeys = []string{"coil", "discrete", "input", "holding"}

type rawWrite struct {
	here
	Min    anything `toml:"min"`
	Max    anything `toml:"max"`
	Step   anything `toml:"step"`
	Verify boolean  `toml:"verify"`

	Function integer `toml:"function"`
	Coalesce boolean `toml:"coalesce"`
}

// rawOnLoss is what is written when no command comes any more.
type rawOnLoss struct {
	here
	After duration `toml:"after"`
	Value anything `toml:"value"`
}

// rawSetup is a value that a device gets at each connection: bare for one of
// its points, else with the register.
type rawSetup struct {
	here
	Coil    integer  `toml:"coil"`
	Holding integer  `toml:"holding"`
	Ref     anything `toml:"ref"`
	Type    text     `toml:"type"`
	Order   text     `toml:"order"`
	Scale   anything `toml:"scale"`
	Offset  anything `toml:"offset"`
	Value   anything `toml:"value"`
	Verify  boolean  `toml:"verify"`
}

// setupTable is rawSetup without its own bind.
type setupTable rawSetup

func (s *rawSetup) bind(b *binder, n *node) {
	if !n.isTable() {
		s.at, s.Value.at = n, n
		return
	}
	b.table(n, (*setupTable)(s), "a set-up value")
}
