/** The words of the editor of interactions, in English and Chinese. */

import { translator, withShared } from "../shared/words.js";

const en = {
    title: "Interaction editor",
    list: "Interactions",
    interaction: "Interaction {number}",
    phrase: "{phrase} of interaction {number}",
    subject: "subject",
    action: "action",
    object: "object",
    canvas: "Layout, {width} by {height} pixels, {count} interactions",
    canvasKeys: "Arrow keys move the chosen box, or the cursor while a box is drawn, with Shift in steps of 10. Space "
        + "begins and ends a box, Enter goes to the words, Escape cancels. Question mark lists all keys.",
    draw: "New interaction: draw the subject's box, then the object's",
    move: "Choose, move and resize boxes",
    previous: "Previous box",
    next: "Next box",
    pick: "Choose the box under the cursor; again: the box below (or Alt+click)",
    rename: "Edit the words (or double-click)",
    swap: "Swap subject and object",
    duplicate: "Duplicate",
    earlier: "Move up the list",
    later: "Move down the list",
    remove: "Delete the interaction",
    size: "Size of the image",
    drawSubject: "Draw the subject's box",
    drawObject: "Now draw the object's box",
    empty: "No interactions yet: press N and draw",
    position: "{number} {phrase}: x {left} to {right}, y {top} to {bottom} %",
    full: "There are already {limit} interactions, which is the limit. Delete one first.",
    damaged: "The editor cannot show the saved text. The text stays until you draw.",
    moveKeysHelp: "move the chosen box; Shift: steps of 10; Alt: resize; while drawing: move the cursor",
    spaceKeyHelp: "begin and end a box",
    enterKey: "Enter",
    enterKeyHelp: "go to the words, then from word to word",
    wheelHelp: "zoom",
};

const zh = {
    title: "交互编辑器",
    list: "交互",
    interaction: "交互 {number}",
    phrase: "交互 {number} 的{phrase}",
    subject: "主体",
    action: "动作",
    object: "客体",
    canvas: "布局，{width} x {height} 像素，{count} 个交互",
    canvasKeys: "方向键移动所选的框，绘制时移动光标，按住 Shift 每次 10 像素。空格键开始和结束一个框，回车键编辑词语，"
        + "Esc 键取消。问号键列出全部按键。",
    draw: "新交互：先画主体的框，再画客体的框",
    move: "选择、移动和缩放框",
    previous: "上一个框",
    next: "下一个框",
    pick: "选择光标处的框，再按选择其下的框（或按住 Alt 单击）",
    rename: "编辑词语（或双击）",
    swap: "交换主体和客体",
    duplicate: "复制",
    earlier: "在列表中上移",
    later: "在列表中下移",
    remove: "删除交互",
    size: "图像尺寸",
    drawSubject: "请画主体的框",
    drawObject: "请画客体的框",
    empty: "还没有交互：按 N 开始绘制",
    position: "{number} {phrase}：x {left} 到 {right}，y {top} 到 {bottom} %",
    full: "已有 {limit} 个交互，达到上限。请先删除一个。",
    damaged: "编辑器无法显示已保存的文本。在您绘制之前该文本保持不变。",
    moveKeysHelp: "移动所选的框；Shift：每次 10 像素；Alt：缩放；绘制时：移动光标",
    spaceKeyHelp: "开始和结束一个框",
    enterKey: "回车键",
    enterKeyHelp: "编辑词语，并逐个前进",
    wheelHelp: "缩放",
};

export const WORDS = withShared({ en, zh });

export const wordsFor = (locale) => translator(WORDS, locale);
